"""Budgets that methods share, and the plan by which a method spends one."""
