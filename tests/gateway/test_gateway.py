import asyncio

import openai
import pytest

from tests.gateway.conftest import MakeStack, Stack, WordCount


async def order_of_service(stack: Stack, first: int, last: int) -> list[str]:
    """Let the held calls of the engine finish one after the other; their prompts in the order of service."""
    prompts = []
    for number in range(first, last + 1):
        call = await stack.engine.call(number)
        prompts.append(call.prompt)
        call.finish.set()
    return prompts


async def test_the_shortest_predicted_of_those_who_wait_is_served_first(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        first = stack.chat("runs at once")
        await stack.engine.call(1)
        others = [stack.chat(" ".join([word] * count)) for word, count in [("c", 30), ("a", 1), ("b", 10)]]
        await stack.settled(requests_waiting=3, requests_running=1)
        await stack.all_predicted()
        prompts = await order_of_service(stack, 1, 4)
        assert [prompt[0] for prompt in prompts] == ["r", "a", "b", "c"]
        assert [status for status, _ in await asyncio.gather(first, *others)] == [200] * 4


async def test_an_idle_slot_is_given_without_a_prediction_and_who_waits_is_told_its_own(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        answers = []

        async def ask(prompt: str) -> None:
            async with stack.post(messages=[{"role": "user", "content": prompt}]) as response:
                answers.append(response.headers)

        first = asyncio.create_task(ask("runs at once"))
        call = await stack.engine.call(1)
        second = asyncio.create_task(ask("five words are in here"))
        await stack.settled(requests_waiting=1)
        await stack.all_predicted()
        call.finish.set()
        (await stack.engine.call(2)).finish.set()
        await asyncio.gather(first, second)
        assert "x-ssjf-predicted-tokens" not in answers[0]
        assert answers[1]["x-ssjf-predicted-tokens"] == "5.0"
        assert float(answers[1]["x-ssjf-queue-ms"]) > 0


async def test_hints_decide_where_they_are_accepted(make_stack: MakeStack) -> None:
    async with make_stack(accept_hints=True) as stack:
        first = stack.chat("first")
        await stack.engine.call(1)
        # the hints reverse what the words would say
        others = [stack.chat("many words for a short answer", hint=1), stack.chat("long", hint=1000)]
        await stack.settled(requests_waiting=2)
        assert (await order_of_service(stack, 1, 3))[1:] == ["many words for a short answer", "long"]
        await asyncio.gather(first, *others)


async def test_hints_are_ignored_where_they_are_not_accepted(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        first = stack.chat("first")
        await stack.engine.call(1)
        others = [stack.chat("many words for a short answer", hint=1), stack.chat("long", hint=1000)]
        await stack.settled(requests_waiting=2)
        await stack.all_predicted()
        assert (await order_of_service(stack, 1, 3))[1:] == ["long", "many words for a short answer"]
        await asyncio.gather(first, *others)


async def test_the_predictor_learns_true_lengths_from_plain_and_streamed_answers(make_stack: MakeStack) -> None:
    predictor = WordCount()
    async with make_stack(predictor=predictor, automatic=True) as stack:
        async with stack.post() as response:
            await response.read()
        async with stack.post(stream=True) as response:
            streamed = await response.read()
        while len(predictor.observed) < 2:
            await stack.metrics()
        assert predictor.observed == [("hello", 3), ("hello", 3)]
        assert b"usage" not in streamed  # the client did not ask for it
        assert streamed.endswith(b"data: [DONE]\n\n")
        assert stack.engine.calls[1].body["stream_options"] == {"include_usage": True}


async def test_a_client_that_asks_for_usage_gets_it(make_stack: MakeStack) -> None:
    async with (
        make_stack(automatic=True) as stack,
        stack.post(stream=True, stream_options={"include_usage": True}) as response,
    ):
        assert b'"completion_tokens":3' in await response.read()


async def test_unknown_fields_pass_through_untouched(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        async with stack.post(tools=[{"type": "function"}], frobnicate={"x": [1.5, None]}) as response:
            assert response.status == 200
        assert stack.engine.calls[0].body["frobnicate"] == {"x": [1.5, None]}
        assert stack.engine.calls[0].body["tools"] == [{"type": "function"}]


async def test_the_unmodified_openai_client_chats_completes_and_streams(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0)
        messages = [{"role": "user", "content": "hello"}]
        chat = await client.chat.completions.create(model="tiny", messages=messages)
        assert chat.choices[0].message.content == "word word word "
        text = await client.completions.create(model="tiny", prompt="hello")
        assert text.usage is not None
        assert text.usage.completion_tokens == 3
        stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
        words = [chunk.choices[0].delta.content async for chunk in stream]
        assert words == ["word "] * 3
        assert [model.id async for model in client.models.list()] == ["tiny"]
        await client.close()


async def test_after_an_aborted_stream_the_slot_is_free_and_the_engine_stops(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0)
        messages = [{"role": "user", "content": "hello"}]
        stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
        assert (await anext(aiter(stream))).choices[0].delta.content == "word "
        await stack.settled(requests_running=1)
        await stream.close()
        metrics = await stack.settled(requests_running=0)
        assert metrics['ssjf_requests_total{outcome="cancelled"}'] == 1
        await stack.engine.calls[0].cancelled.wait()
        await client.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_frees_its_slot(make_stack: MakeStack, stream: bool) -> None:
    async with make_stack() as stack:
        gone = stack.chat("leaves", stream=stream)
        call = await stack.engine.call(1)
        gone.cancel()
        await stack.settled(requests_running=0)
        await call.cancelled.wait()
        after = stack.chat("comes after")
        (await stack.engine.call(2)).finish.set()
        assert (await after)[0] == 200


async def test_a_client_that_leaves_the_queue_is_never_sent_to_the_engine(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        first = stack.chat("first")
        call = await stack.engine.call(1)
        waits = stack.chat("waits")
        await stack.settled(requests_waiting=1)
        waits.cancel()
        metrics = await stack.settled(requests_waiting=0, requests_running=1)
        assert metrics['ssjf_requests_total{outcome="cancelled"}'] == 1
        call.finish.set()
        await first
        assert len(stack.engine.calls) == 1


async def test_a_full_queue_answers_429_and_says_when_to_come_again(make_stack: MakeStack) -> None:
    async with make_stack(max_waiting=1) as stack:
        first = stack.chat("runs")
        call = await stack.engine.call(1)
        second = stack.chat("waits")
        await stack.settled(requests_waiting=1)
        async with stack.post() as response:
            assert response.status == 429
            assert int(response.headers["retry-after"]) > 0
            assert int(response.headers["retry-after-ms"]) > 0
            assert (await response.json())["error"]["code"] == "queue_full"
        call.finish.set()
        (await stack.engine.call(2)).finish.set()
        await asyncio.gather(first, second)


async def test_what_the_engine_refuses_passes_through(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        stack.engine.status = 400
        async with stack.post(stream=True) as response:
            assert response.status == 400
            assert (await response.json())["error"]["message"] == "no"
        metrics = await stack.settled(requests_running=0)
        assert metrics['ssjf_requests_total{outcome="refused"}'] == 1


async def test_a_stream_that_breaks_ends_with_an_error_event(make_stack: MakeStack) -> None:
    async with make_stack(automatic=True) as stack:
        stack.engine.break_after = 2
        async with stack.post(stream=True) as response:
            payload = await response.read()
        assert b'"engine_error"' in payload
        assert b"[DONE]" not in payload
        metrics = await stack.settled(requests_running=0)
        assert metrics['ssjf_requests_total{outcome="failed"}'] == 1


async def test_an_engine_that_is_down_is_a_503_and_healthz_says_so(make_stack: MakeStack) -> None:
    async with make_stack(backend=["http://127.0.0.1:9"]) as stack:
        async with stack.post() as response:
            assert response.status == 503
            assert (await response.json())["error"]["type"] == "api_error"
        async with stack.session.get(f"{stack.url}/healthz") as response:
            assert response.status == 503
            assert (await response.json())["engine"] == "unreachable"


async def test_while_draining_new_work_is_refused_and_accepted_work_ends(make_stack: MakeStack) -> None:
    async with make_stack() as stack:
        first, second = stack.chat("runs"), None
        await stack.engine.call(1)
        second = stack.chat("waits")
        await stack.settled(requests_waiting=1)
        stack.gateway.draining = True
        async with stack.post() as response:
            assert response.status == 503
            assert "retry-after" in response.headers
        await order_of_service(stack, 1, 2)
        assert [(await first)[0], (await second)[0]] == [200, 200]
        await stack.gateway.dispatcher.wait_until_idle()


async def test_request_ids_are_echoed_and_two_live_requests_may_share_one(make_stack: MakeStack) -> None:
    async with make_stack(slots=2) as stack:
        asked = [asyncio.create_task(stack.post(headers={"x-request-id": "mine"}).__aenter__()) for _ in range(2)]
        for number in (1, 2):
            (await stack.engine.call(number)).finish.set()
        assert [(await response).headers["x-request-id"] for response in asked] == ["mine", "mine"]
        for response in asked:
            (await response).release()


async def test_shadow_mode_reports_what_the_other_policy_would_have_given_and_reorders_nothing(
    make_stack: MakeStack,
) -> None:
    async with make_stack(policy="fcfs", shadow="ssjf") as stack:
        sent = [stack.chat(f"{index} " * (60 - index)) for index in range(3)]
        await stack.engine.call(1)
        await stack.settled(requests_waiting=2)
        order = await order_of_service(stack, 1, 3)
        await asyncio.gather(*sent)
        assert [prompt[0] for prompt in order] == ["0", "1", "2"]
        stack.engine.automatic = True
        await asyncio.gather(*(stack.chat("more") for _ in range(60)))
        while (await stack.metrics())["ssjf_shadow_own_jct_seconds"] == 0:
            pass


async def test_metrics_show_what_the_default_policy_goes_by(make_stack: MakeStack) -> None:
    async with make_stack(policy="auto", automatic=True) as stack:
        await asyncio.gather(*(stack.chat("one two three") for _ in range(30)))
        metrics = await stack.settled(requests_running=0)
        # every answer is as long as every other: there is nothing to rank, and nothing is trusted
        (name,) = (member.name for member in stack.gateway.pool.members)
        assert 0 <= metrics[f'ssjf_policy_state{{backends="{name}",name="trust"}}'] <= 1
        assert 0 <= metrics[f'ssjf_policy_state{{backends="{name}",name="concordance"}}'] <= 1
        assert metrics[f'ssjf_policy_state{{backends="{name}",name="prediction_scale"}}'] > 0
