"""PostgreSQL with and without mshare run."""
