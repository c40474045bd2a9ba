"""Pure rules of the product: money, prices, windows, budgets, objectives, conditions. The clock is always an argument."""
