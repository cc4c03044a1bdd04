"""PostgreSQL as it is, with huge_pages=on and a pool, and with mshare run."""

from .table import measure

__all__ = ["measure"]
