"""What the GPUs of a service cost, in its dashboard: used or idle, and what tokens cost by it. Of services whose model runs in their own pods."""

from collections.abc import Callable

from llmwarden import names
from llmwarden.desired.dashboards.panels import PanelBuilder, graph

KIND = names.LABEL_M_TOKEN_TYPE


def panels(of: str, always: Callable[[str, str], str]) -> list[PanelBuilder]:
    """Panels of the section on cost. `always(of, label)` is a zero with such a label: what is shown where the pods hold no GPUs."""
    return [
        graph(
            "GPU cost an hour, used and idle",
            "Of the newest closed hour: GPU-hours at their rate. Idle is when no call was in flight; no call pays it.",
            "currencyUSD",
            (f"max by (use) ({names.METRIC_GPU_COST}{{{of}}}) or {always(of, 'use')}", "{{use}}"),
            stacked=True,
        ),
        graph(
            "A million tokens by GPU-hours",
            "What calls are gated at now: the used part of the last hour's GPUs, shared over its tokens by the time of prefill and decode.",
            "currencyUSD",
            (f"max by ({KIND}) ({names.METRIC_GPU_TOKENS}{{{of}}}) or {always(of, KIND)}", f"{{{{{KIND}}}}}"),
        ),
        graph(
            "GPU-hours without a rate",
            "Of the newest closed hour: a ModelPrice with the GPU's product is missing, and the tokens of that hour are uncosted.",
            "short",
            (f"max({names.METRIC_GPU_UNPRICED}{{{of}}}) or {always(of, '')}", "GPU-hours"),
        ),
    ]
