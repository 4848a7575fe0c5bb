"""Handwritten digits, learned by several sites."""
