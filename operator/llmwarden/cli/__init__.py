"""`kubectl llm`: what a person asks from their own machine, with their own rights."""
