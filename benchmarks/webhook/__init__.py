"""What the webhook takes: its memory by the number of LLMServices in the cluster, and how long a review takes."""
