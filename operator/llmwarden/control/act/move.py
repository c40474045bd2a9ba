"""Evictions: through the API that honours disruption budgets."""

import logging

from llmwarden.errors import ConflictError, RefusedError
from llmwarden.kube import Client, RefusedByBudgetError

logger = logging.getLogger(__name__)


async def evict(client: Client, namespace: str, pod: str, uid: str) -> bool:
    """Evict this very pod; returns whether it was accepted (a pod that is gone already counts).

    False where a PodDisruptionBudget, or admission, does not allow it now. Raises UnavailableError where the server does not answer.
    """
    try:
        await client.evict(namespace, pod, uid=uid)
    except RefusedByBudgetError as error:
        logger.info("pod %s/%s is not evicted now: %s", namespace, pod, error)
        return False
    except (RefusedError, ConflictError) as error:
        logger.warning("pod %s/%s cannot be evicted: %s", namespace, pod, error)
        return False
    logger.info("pod %s/%s evicted", namespace, pod)
    return True
