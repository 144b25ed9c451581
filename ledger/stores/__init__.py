"""Adapters: one database each, sharing nothing by inheritance. What is common is decided above them."""
