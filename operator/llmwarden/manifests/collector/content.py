"""Which attributes of spans hold what people wrote and models answered, by each convention, and how they are taken out.

A list of names, not of allowed ones: an application's own attributes are why it sends spans. What is on no list passes, so docs/traces.md
says to keep content out at the source too.
"""

from typing import Final

# Regular expressions without backslashes: in a configuration each would have to be written four times.
_N: Final = "[.][0-9]+"
_KEYS: Final[tuple[str, ...]] = (
    # OpenTelemetry GenAI, present and former names.
    "gen_ai[.](input[.]messages|output[.]messages|system_instructions|tool[.]definitions)",
    "gen_ai[.]tool[.]call[.](arguments|result)",
    "gen_ai[.]retrieval[.](documents|query[.]text)",
    "gen_ai[.]evaluation[.]explanation",
    "gen_ai[.](prompt|completion|event[.]content|content[.](prompt|completion))",
    # OpenLLMetry.
    f"gen_ai[.](prompt|completion){_N}[.].*",
    "traceloop[.](entity[.](input|output)|prompt[.]template.*)",
    "llm[.]request[.]functions.*",
    "(pinecone|milvus|qdrant|weaviate|chroma|marqo)[.].*(text|document|vector|filter)s?",
    "db[.]query[.](result|embeddings).*",
    # OpenInference.
    "(input|output)[.]value",
    "llm[.](input_messages|output_messages|prompts|completions|choices|tools|prompt_template|function_call|invocation_parameters).*",
    "(retrieval|reranker)[.].*(documents|query).*",
    "(document|message|message_content|tool_call)[.].*",
    "embedding[.](embeddings|text|vector).*",
    "tool[.](parameters|json_schema|description)",
    # Vercel's AI SDK, Langfuse, LangSmith, Pydantic's Logfire.
    "ai[.](prompt|response[.](text|object|toolCalls|reasoning)|toolCall[.](args|result)|values?|embeddings?).*",
    "langfuse[.](observation|trace)[.](input|output)",
    "langsmith[.](inputs|outputs).*",
    "(request_data|response_data|all_messages_events|pydantic_ai[.]all_messages|tool_arguments|tool_response|final_result)",
    # HTTP.
    "http[.](request|response)[.]body([.](text|content))?",
)
KEYS: Final = "^(" + "|".join(_KEYS) + ")$"
# Of events that GenAI conventions once made of messages, whose attributes have plain names.
_EVENTS: Final = "^gen_ai[.]"
_OF_EVENTS: Final = "^(content|message|tool_calls|arguments|id|event[.]body|body)$"

# Each context has a list of its own: of a common one the Collector makes statements of the innermost context, and a span without events
# would keep everything (seen).
OF_SPANS: Final = (f'delete_matching_keys(span.attributes, "{KEYS}")',)
OF_EVENTS: Final = (
    f'delete_matching_keys(spanevent.attributes, "{KEYS}")',
    f'delete_matching_keys(spanevent.attributes, "{_OF_EVENTS}") where IsMatch(spanevent.name, "{_EVENTS}")',
)
