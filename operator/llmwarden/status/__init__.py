"""The status of an LLMService, from what is known of it."""

from llmwarden.status.budgets import called, forecast, thresholds
from llmwarden.status.build import build, problems, rerated, significant
from llmwarden.status.figures import human_count

__all__ = ["build", "called", "forecast", "human_count", "problems", "rerated", "significant", "thresholds"]
