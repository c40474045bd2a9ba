"""Which code the proxies of these tests run, and that it is what is written."""

from pathlib import Path

from image import compile as compiling
from tests.proxy.fakes import SOURCE, running
from tests.unit.image.test_compile import structs

COMPILED = compiling.MODULES if SOURCE.parent == compiling.TREES else ()


async def test_a_proxy_says_how_much_of_it_is_compiled(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, proxy):
        text = await proxy.admin_get("/metrics")
        assert f"llmwarden_proxy_compiled_modules {len(COMPILED)}.0" in text
        assert f"; {len(COMPILED)} modules compiled" in "".join(proxy.log)


def test_compiled_structs_are_those_that_are_written() -> None:
    assert structs(SOURCE) == structs(compiling.SOURCES)
