"""What a user is told while the work goes on."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger("speckv")


@functools.lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """Log a warning, one line, the first time that it is given; without handlers Python writes it to stderr."""
    logger.warning("%s", " ".join(message.split()))
