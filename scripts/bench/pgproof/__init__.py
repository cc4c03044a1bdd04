"""What an unmodified PostgreSQL gains from mshare run: queries, connects, page tables."""
