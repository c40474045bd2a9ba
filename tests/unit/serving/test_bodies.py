import asyncio

import pytest

from llmwarden.serving.bodies import Bodies, Body, MadeRoomError


async def hold(bodies: Bodies, size: int, held: asyncio.Event, seconds: float = 60.0) -> None:
    """Read so many bytes, and then wait for the rest for ever."""
    async with bodies.reading(seconds) as body:
        bodies.grow(body, size)
        held.set()
        await asyncio.Event().wait()


async def test_the_body_that_has_been_read_for_longest_makes_room() -> None:
    bodies = Bodies(100)
    waits = []
    for _ in range(4):
        held = asyncio.Event()
        waits.append(asyncio.create_task(hold(bodies, 30, held)))
        await held.wait()
    with pytest.raises(MadeRoomError):
        await waits[0]
    assert not any(wait.done() for wait in waits[1:])
    async with bodies.reading(60) as honest:
        bodies.grow(honest, 80)
    for wait in waits[1:]:
        with pytest.raises(MadeRoomError):
            await wait


async def test_a_body_larger_than_all_room_makes_none() -> None:
    bodies = Bodies(100)
    with pytest.raises(MadeRoomError):
        async with bodies.reading(60) as body:
            bodies.grow(body, 101)
    async with bodies.reading(60) as next_one:
        bodies.grow(next_one, 100)  # nothing is left of the one before


async def test_a_body_that_takes_too_long_is_no_matter_of_room() -> None:
    bodies = Bodies(100)
    with pytest.raises(TimeoutError):
        await hold(bodies, 10, asyncio.Event(), 0.01)


async def test_parts_that_come_after_it_was_dropped_are_not_taken() -> None:
    bodies, dropped = Bodies(100), asyncio.Event()

    async def read() -> None:
        async with bodies.reading(60) as body:
            bodies.grow(body, 60)
            kept.append(body)
            await dropped.wait()
            bodies.grow(body, 1)

    kept: list[Body] = []
    reading = asyncio.create_task(read())
    while not kept:
        await asyncio.sleep(0)
    async with bodies.reading(60) as body:
        bodies.grow(body, 60)
        dropped.set()
        with pytest.raises(MadeRoomError):
            await reading
