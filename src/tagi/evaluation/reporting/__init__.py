"""Many runs' records as one page and as tables: what is comparable put together, what is not named."""

from tagi.evaluation.reporting.charts import have_charts
from tagi.evaluation.reporting.markdown import as_markdown
from tagi.evaluation.reporting.page import as_page
from tagi.evaluation.reporting.report import Report, make_report

__all__ = ["Report", "as_markdown", "as_page", "have_charts", "make_report"]
