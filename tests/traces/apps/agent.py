"""An application: an agent that looks something up, asks a model, runs two tools, and asks again; three calls of a model in all.

It knows nothing of LLM Warden: the OpenAI SDK by its environment variables, OpenTelemetry by its own, and one of the instrumentations that
applications use, as their documentation says. Runs in the environment of programs.py. Arguments: the instrumentation, and `http` where HTTP
is to be instrumented too. A caller's traceparent is taken from TRACEPARENT, as a web framework's instrumentation takes it from the request.
"""

import importlib
import os
import sys
import time

import openai
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

QUESTION = "What is the weather where I was born?"


INSTRUMENTORS = {
    "openllmetry": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
    "openinference": ("openinference.instrumentation.openai", "OpenAIInstrumentor"),
    "opentelemetry": ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    # The OpenAI SDK speaks httpx2 since its version 3; before, it was httpx (HTTPXClientInstrumentor, in the same package).
    "http": ("opentelemetry.instrumentation.httpx", "HTTPX2ClientInstrumentor"),
}


def main() -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "assistant"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    for which in sys.argv[1:]:
        module, name = INSTRUMENTORS[which]
        getattr(importlib.import_module(module), name)().instrument()
    client = openai.OpenAI(max_retries=0)
    tracer = trace.get_tracer("assistant")

    def ask(step: str) -> None:
        messages = [{"role": "user", "content": f"{QUESTION} {step}"}]
        client.chat.completions.create(model="gpt-4o-mini", messages=messages, max_tokens=16)

    caller = propagate.extract({"traceparent": os.environ.get("TRACEPARENT", "")})
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "assistant", "input.value": QUESTION}
    with tracer.start_as_current_span("invoke_agent assistant", context=caller, attributes=agent) as root:
        with tracer.start_as_current_span("retrieval notes", attributes={"gen_ai.operation.name": "retrieval"}):
            time.sleep(0.02)
        ask("Which city?")
        for tool in ("weather", "units"):
            attributes = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool,
                "gen_ai.tool.call.arguments": '{"city": "Ulm"}',
            }
            with tracer.start_as_current_span(f"execute_tool {tool}", attributes=attributes):
                time.sleep(0.02)
            ask(f"The tool {tool} has answered.")
        print(f"{root.get_span_context().trace_id:032x}")  # noqa: T201 - what it is asked for
    provider.shutdown()


if __name__ == "__main__":
    main()
