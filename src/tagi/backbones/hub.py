"""Whether the hub can be asked: where it cannot, its cache is read at once instead of after a minute of attempts."""

import socket
from functools import lru_cache
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

_SECONDS = 3.0


@lru_cache(maxsize=1)
def hub_is_unreachable() -> bool:
    """Return whether the hub gives no answer within three seconds, or is not to be asked (`HF_HUB_OFFLINE`).

    It is tried once for a process. With a proxy, which decides what can be reached, it is taken for reachable.
    """
    if constants.HF_HUB_OFFLINE:
        return True
    if getproxies():
        return False
    address, connected = urlsplit(constants.ENDPOINT), list[bool]()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname, address.port or 443), timeout=_SECONDS).close()
        except OSError:
            return
        connected.append(True)

    # In a thread, since looking up a name has no limit of its own.
    trial = Thread(target=connect, daemon=True)
    trial.start()
    trial.join(_SECONDS)
    return not connected
