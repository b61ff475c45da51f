"""A report as one HTML page: nothing beside it is needed, and nothing in it runs."""

from importlib import resources

from jinja2 import Environment, StrictUndefined

from tagi.evaluation.reports.report import Report


def as_page(report: Report) -> str:
    """The page; everything that comes from records is escaped."""
    template = resources.files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template).render(report=report)
