"""The benchmark: plans of budgets, measurements, costs, tables, reports and sweeps."""
