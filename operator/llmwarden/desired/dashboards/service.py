"""The dashboard of one LLMService: one screen that answers "slow because of what" and "dear because of what".

Sections: health at a glance; what is slow and which part of a call it is, beside what may be its cause (longer prompts and answers, one model); the
engine and its GPUs below that; errors, tokens and cost, the proxy itself. (Agents and quality get their rows with their issues.) Lines over hours read
recorded series where there are such, as alerts do; exemplars are on the heatmaps. Counters that exist only once something has happened are joined to a zero that is always there.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

from llmwarden import names
from llmwarden.desired import promql, slo, vocabulary
from llmwarden.desired.dashboards import gpu_cost
from llmwarden.desired.dashboards.panels import (
    HALF,
    INTERVAL,
    THIRD,
    PanelBuilder,
    bars,
    figure,
    finish,
    graph,
    heat,
    row,
    source_variable,
)
from llmwarden.desired.manifest import dashboard_uid
from llmwarden.desired.params import Params
from llmwarden.domain import upstream
from llmwarden.domain.objectives import AvailabilityObjective, Share

KIND: Final = names.LABEL_M_TOKEN_TYPE
MODEL: Final = names.LABEL_M_RESPONSE_MODEL
TAGS: Final = ["llmwarden", "llm"]


def build(params: Params) -> models.Dashboard:
    """Build the dashboard."""
    metadata = params.service.metadata
    of = promql.selector(metadata.namespace, metadata.name)
    made = (
        builders.Dashboard(f"LLM service {metadata.namespace}/{metadata.name}")
        .uid(dashboard_uid(metadata.namespace, metadata.name))
        .description(
            f"LLMService {metadata.name} in namespace {metadata.namespace}: traffic, latency, tokens, cost and budgets."
        )
        .tags(TAGS)
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("")
        .with_variable(source_variable())
        .link(
            builders.DashboardLink("All LLM services")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([*TAGS, "overview"])
            .keep_time(keep_time=True)
        )
    )
    sections: list[tuple[str, list[PanelBuilder]]] = [
        ("Health", _health(params, of)),
        ("Slow because of what", _latency(of)),
    ]
    engine = vocabulary.engine_of(params)
    if engine is not None:
        sections.append((f"Engine ({engine.type})", _engine(of, set(engine.metrics))))
    own_model = upstream.interception(params.service) == "Port"
    if params.service.spec.gpu is not None and params.service.spec.gpu.exporter != "None":
        sections.append(("GPUs", _gpus(metadata.namespace, of)))
    sections += [
        ("Errors", _errors(of)),
        ("Tokens and cost", [*_money(of), *(gpu_cost.panels(of, _always) if own_model else [])]),
        ("The proxy itself", _proxy(of, metadata.namespace)),
    ]
    for title, panels in sections:
        made = made.with_row(row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return finish(made)


def _always(of: str, by: str = "") -> str:
    """Zero, as long as the service has a proxy: what a counter is that nothing has counted in yet."""
    inner = f"sum({names.METRIC_IN_FLIGHT}{{{of}}})"
    return f"0 * {inner}" if not by else f'label_replace(0 * {inner}, "{by}", "none", "", "")'


def _rate(metric: str, of: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{of}}}[{INTERVAL}])) or {_always(of, by)}"


def _day(metric: str, of: str) -> str:
    return f"sum(increase({metric}{{{of}}}[24h])) or {_always(of)}"


def _health(params: Params, of: str) -> list[PanelBuilder]:
    found = [
        figure(
            "Requests a minute",
            "Calls that came in, over five minutes.",
            "reqpm",
            f"60 * llmservice:requests:rate5m{{{of}}}",
        ),
        figure(
            "Calls that fail",
            "Share of calls that failed, over five minutes.",
            "percentunit",
            f"llmservice:errors:ratio5m{{{of}}} or {_always(of)}",
            limits=(0.01, 0.05),
        ),
        figure(
            "First token, p95",
            "95 % of streams have their first token of content within.",
            "s",
            f"llmservice:ttft_seconds:p95_5m{{{of}}}",
        ),
        figure(
            "Answer, p95",
            "95 % of calls are answered within.",
            "s",
            f"llmservice:request_duration_seconds:p95_5m{{{of}}}",
            limits=(5, 10),
        ),
        figure(
            "Cost, 24 hours",
            "By the proxies' prices; the exact sum is in the LLMService's status.",
            "currencyUSD",
            _day(names.METRIC_COST, of),
        ),
        figure(
            "Alerts that fire",
            "Of this service.",
            "short",
            f'count(ALERTS{{{of},alertstate="firing"}}) or {_always(of)}',
            limits=(1, 2),
        ),
        bars(
            "Budgets used",
            "Share of each budget that is spent in its present window; shared budgets count all their services.",
            "percentunit",
            (
                f"max by (kind, budget) ({names.METRIC_BUDGET_USED}{{{of}}}) or {_always(of, 'budget')}",
                "{{kind}} {{budget}}",
            ),
            limits=(0.8, 1.0),
        ),
    ]
    available = [item.name for item in slo.measured(params) if isinstance(item, AvailabilityObjective)]
    if available:
        of_them = f'{of},objective=~"{"|".join(available)}"'
        found.append(
            figure(
                "Available, 24 hours",
                "Share of time in which calls were answered, by the strictest of the service's availability objectives.",
                "percentunit",
                f"min(avg_over_time({names.RECORD_GOOD}{{{of_them}}}[24h])) or {_always(of)}",
                limits=(0.999, 0.99),
                span=THIRD,
            )
        )
    if slo.measured(params):
        found += [
            bars(
                "Error budget left",
                "Of each objective, over its window: 100 % at first, 0 % used up.",
                "percentunit",
                (f"clamp_min({names.RECORD_BUDGET_LEFT}{{{of}}}, 0) or {_always(of, 'objective')}", "{{objective}}"),
                limits=(0.5, 0.2),
            ),
            graph(
                "Burn rate of error budgets",
                "How many times too fast each error budget goes, over the hour (of a window of 30 days) that a page looks at: at 1 it lasts just its window, "
                "above 14 somebody is called.",
                "suffix: x",
                *(_burn(of, objective) for objective in slo.measured(params)),
            ),
        ]
    return found


def _burn(of: str, objective: Share) -> tuple[str, str]:
    window = promql.duration(slo.burns(objective.window_seconds)[0].long)
    matchers = f'{of},objective="{objective.name}",window="{window}"'
    allowed = (100 - objective.target_percent) / 100
    return f"{names.RECORD_BAD}{{{matchers}}} / {allowed:f} or {_always(of)}", objective.name


def _latency(of: str) -> list[PanelBuilder]:
    def quantiles(recorded: str) -> tuple[tuple[str, str], ...]:
        return tuple((f"llmservice:{recorded}:{name}_5m{{{of}}}", name) for name in vocabulary.QUANTILES)

    def mean(metric: str) -> str:
        return f"sum(rate({metric}_sum{{{of}}}[{INTERVAL}])) / (sum(rate({metric}_count{{{of}}}[{INTERVAL}])) > 0)"

    calls = f'(sum(rate({names.METRIC_REQUESTS}{{{of},{names.LABEL_M_STATUS}="200"}}[{INTERVAL}])) > 0)'

    def of_a_call(kind: str) -> str:
        return f'sum(rate({names.METRIC_TOKENS}{{{of},{KIND}="{kind}"}}[{INTERVAL}])) / {calls}'

    answered = f'{of},{names.LABEL_M_ERROR}=""'
    by_model = f"sum by ({MODEL}, le) (rate({names.METRIC_DURATION}_bucket{{{answered}}}[{INTERVAL}]))"
    return [
        graph(
            "Time to first token",
            "From a streamed call's arrival to its first token of content, over five minutes.",
            "s",
            *quantiles("ttft_seconds"),
        ),
        graph(
            "Time per output token",
            "Between the tokens of an answer, over five minutes.",
            "s",
            *quantiles("time_per_output_token_seconds"),
        ),
        graph(
            "Answer",
            "From a call's arrival to the end of its answer, over five minutes.",
            "s",
            *quantiles("request_duration_seconds"),
        ),
        graph(
            "Where a call's time goes",
            "Of an average stream. What grows first: a queue or longer prompts (first token), a busy engine or provider, or longer answers (writing).",
            "s",
            (f"{mean(names.METRIC_TTFT)} or {_always(of)}", "to the first token"),
            (f"({mean(names.METRIC_TPOT)}) * ({of_a_call('output')}) or {_always(of)}", "writing the rest"),
            stacked=True,
        ),
        graph(
            "Tokens of a call",
            "Of an average answered call. Longer prompts make the first token late, longer answers the end.",
            "short",
            *(
                (f"{of_a_call(kind)} or {_always(of)}", kind)
                for kind in ("input", "cached_input", "output", "reasoning")
            ),
        ),
        graph(
            "Answer by model, p95",
            "Of calls without an error. One line above the others: it is that model, not the service.",
            "s",
            (f"histogram_quantile(0.95, {by_model})", f"{{{{{MODEL}}}}}"),
            coarse=True,
        ),
        heat(
            "Time to first token, all calls",
            "Where streamed calls are; points are traces of single calls.",
            "s",
            names.METRIC_TTFT,
            of,
        ),
        heat(
            "Answer, all calls", "Where calls are; points are traces of single calls.", "s", names.METRIC_DURATION, of
        ),
        graph(
            "Context window used",
            "Share of the model's window that a call's prompt and answer take, of models whose window is known: near 100 % answers end early or fail.",
            "percentunit",
            *((f"{query} or {_always(of)}", name) for query, name in quantiles("context_used_ratio")),
            span=24,
        ),
    ]


def _money(of: str) -> list[PanelBuilder]:
    cost, calls = (
        f"sum(rate({names.METRIC_COST}{{{of}}}[{INTERVAL}]))",
        f"sum(rate({names.METRIC_REQUESTS}{{{of}}}[{INTERVAL}]))",
    )
    output = f'{of},{KIND}="output"'
    return [
        graph(
            "Tokens a second, by kind",
            "cached_input and cache_write are parts of input, reasoning is a part of output.",
            "short",
            (_rate(names.METRIC_TOKENS, of, KIND), f"{{{{{KIND}}}}}"),
        ),
        graph(
            "Output tokens a second, by model",
            "Of the model that answered.",
            "short",
            (
                _rate(names.METRIC_TOKENS, output, MODEL).replace(_always(output, MODEL), _always(of, MODEL)),
                f"{{{{{MODEL}}}}}",
            ),
        ),
        graph(
            "Cost an hour, by model",
            "By the proxies' prices.",
            "currencyUSD",
            (
                f"3600 * (sum by ({MODEL}) (rate({names.METRIC_COST}{{{of}}}[{INTERVAL}]))) or {_always(of, MODEL)}",
                f"{{{{{MODEL}}}}}",
            ),
            stacked=True,
        ),
        graph(
            "Cost of a call",
            "Cost by calls: longer prompts, longer answers and dearer models show here.",
            "currencyUSD",
            (f"({cost} or {_always(of)}) / ({calls} > 0) or {_always(of)}", "$ a call"),
        ),
        graph(
            "Effective price of a million tokens",
            "Cost by all tokens, cached ones included.",
            "currencyUSD",
            (
                f'1e6 * ({cost} or {_always(of)}) / (sum(rate({names.METRIC_TOKENS}{{{of},{KIND}=~"input|output"}}[{INTERVAL}])) > 0) or {_always(of)}',
                "$ a million",
            ),
        ),
        figure(
            "Uncosted tokens, 24 hours",
            "Of models whose price is unknown: they are in no cost. The platform team sets it with a ModelPrice.",
            "short",
            _day(names.METRIC_UNCOSTED, of),
            limits=(1, 1000),
            span=THIRD,
        ),
    ]


def _errors(of: str) -> list[PanelBuilder]:
    failed = f'{of},{names.LABEL_M_ERROR}!=""'
    return [
        graph(
            "Calls a minute, by status",
            "By the status that the client got; an error event under 200 is an error, but keeps its status.",
            "reqpm",
            (
                f"60 * (sum by ({names.LABEL_M_STATUS}) (rate({names.METRIC_REQUESTS}{{{of}}}[{INTERVAL}])))",
                f"{{{{{names.LABEL_M_STATUS}}}}}",
            ),
        ),
        graph(
            "Failed calls a minute, by error",
            "429 is a limit of the provider; insufficient_quota one of our budgets.",
            "reqpm",
            (
                f"60 * (sum by ({names.LABEL_M_ERROR}) (rate({names.METRIC_REQUESTS}{{{failed}}}[{INTERVAL}]))) or {_always(of, names.LABEL_M_ERROR)}",
                f"{{{{{names.LABEL_M_ERROR}}}}}",
            ),
        ),
        graph(
            "Refused by budgets, and unmeasured",
            "Calls a minute that a budget refused, by budget; and what passed without being understood, by reason.",
            "reqpm",
            (
                f"60 * (sum by (budget) (rate({names.METRIC_REFUSED}{{{of}}}[{INTERVAL}]))) or {_always(of, 'budget')}",
                "refused: {{budget}}",
            ),
            (
                f"60 * (sum by (reason) (rate({names.METRIC_UNMEASURED}{{{of}}}[{INTERVAL}]))) or {_always(of, 'reason')}",
                "unmeasured: {{reason}}",
            ),
        ),
    ]


def _engine(of: str, metrics: set[str]) -> list[PanelBuilder]:
    found: list[PanelBuilder] = [
        graph(
            "Requests in the engine",
            "What it works on, and what waits in its queue.",
            "short",
            (f"llmservice:engine_requests_running{{{of}}}", "running"),
            (f"llmservice:engine_requests_waiting{{{of}}}", "waiting"),
        )
    ]
    if "cache_used" in metrics:
        found.append(
            graph(
                "KV cache",
                "Share of the key-value cache in use; above 90 % requests are preempted or wait.",
                "percentunit",
                (f"llmservice:engine_kv_cache_used:ratio{{{of}}}", "used"),
            )
        )
    if "prefix_hits" in metrics:
        found.append(
            graph(
                "Prefix cache",
                "Share of looked-up tokens that the prefix cache had.",
                "percentunit",
                (f"llmservice:engine_prefix_cache_hit:ratio5m{{{of}}} or {_always(of)}", "hits"),
            )
        )
    if "prompt_tokens" in metrics:
        found.append(
            graph(
                "Engine's tokens a second",
                "By the engine's own count, calls that go around the proxy included.",
                "short",
                (f"llmservice:engine_prompt_tokens:rate5m{{{of}}}", "prompt"),
                (f"llmservice:engine_generation_tokens:rate5m{{{of}}}", "generation"),
            )
        )
    phases = [key for key in ("queue", "prefill", "decode") if key in metrics]
    if phases:
        found.append(
            graph(
                "Where the time goes, p95",
                "In the engine: waiting in its queue, reading the prompt, writing the answer.",
                "s",
                *((f"llmservice:engine_{key}_seconds:p95_5m{{{of}}}", key) for key in phases),
            )
        )
    if "preemptions" in metrics:
        found.append(
            graph(
                "Preemptions a minute",
                "Requests that lost their place in the KV cache and are computed again.",
                "short",
                (f"60 * llmservice:engine_preemptions:rate5m{{{of}}} or {_always(of)}", "preemptions"),
            )
        )
    return found


def _gpus(namespace: str, of: str) -> list[PanelBuilder]:
    def read(metric: str) -> str:
        return f'{metric}{{namespace="{namespace}"}}'

    def gpu(expr: str) -> str:
        return f"max by (pod, gpu, GPU_I_ID) ({expr} and on (namespace, pod) {names.METRIC_IN_FLIGHT}{{{of}}})"

    used, free = read("DCGM_FI_DEV_FB_USED"), read("DCGM_FI_DEV_FB_FREE")
    legend = "{{pod}} GPU {{gpu}} {{GPU_I_ID}}"
    return [
        graph(
            "Utilisation",
            "Share of time in which a kernel ran, by device and pod.",
            "percent",
            (gpu(read("DCGM_FI_DEV_GPU_UTIL")), legend),
        ),
        graph(
            "Memory",
            "Share of the device's memory in use.",
            "percentunit",
            (gpu(f"{used} / ({used} + {free})"), legend),
        ),
        graph("Power", "Watts that the device draws.", "watt", (gpu(read("DCGM_FI_DEV_POWER_USAGE")), legend)),
        graph(
            "Temperature",
            "Near its limit a device slows its clocks.",
            "celsius",
            (gpu(read("DCGM_FI_DEV_GPU_TEMP")), legend),
            span=HALF,
        ),
        graph(
            "XID errors",
            "The number of the last error that the driver reported; 0 is none.",
            "short",
            (gpu(read("DCGM_FI_DEV_XID_ERRORS")), legend),
            span=HALF,
        ),
    ]


def _proxy(of: str, namespace: str) -> list[PanelBuilder]:
    pods = f"on (namespace, pod) max by (namespace, pod) ({names.METRIC_IN_FLIGHT}{{{of}}} * 0 + 1)"
    return [
        graph(
            "Calls under way",
            "In each proxy.",
            "short",
            (f"sum by (pod) ({names.METRIC_IN_FLIGHT}{{{of}}})", "{{pod}}"),
        ),
        graph(
            "Since the last report",
            "Seconds since the ledger took a proxy's report; a report comes at least every minute.",
            "s",
            (
                f'time() - max by (namespace, pod) ({names.METRIC_LAST_REPORT}{{namespace="{namespace}"}} and {pods})',
                "{{pod}}",
            ),
        ),
        graph(
            "Lost or late",
            "Spans that were dropped, journal writes that failed, questions that the ledger did not answer; a minute.",
            "short",
            *(
                (f'60 * sum(rate({metric}{{namespace="{namespace}"}}[{INTERVAL}]) and {pods}) or {_always(of)}', legend)
                for metric, legend in (
                    (names.METRIC_SPANS_DROPPED, "spans dropped"),
                    (names.METRIC_JOURNAL_ERRORS, "journal"),
                    (names.METRIC_LEDGER_ERRORS, "ledger"),
                )
            ),
        ),
    ]
