#!/usr/bin/env python3
"""The openai client, unmodified, against a running server: openai_client.py BASE_URL KEY (pip install openai).

Ends with an AssertionError at what is not as OpenAI's API has it. The server must have an API key, and a package with a
chat template; what the model says does not matter.
"""
import math
import sys

import openai

URL, KEY = sys.argv[1:3]
client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)
model = client.models.list().data[0].id
CHAT = [{"role": "user", "content": "hi"}]
GREEDY = {"model": model, "temperature": 0, "extra_body": {"ignore_eos": True}}
checked = 0


def check(truth, *found):
    global checked
    checked += 1
    assert truth, found


def complete(prompt="hello hello", **fields):
    return client.completions.create(prompt=prompt, **{**GREEDY, **fields})


def chat(**fields):
    return client.chat.completions.create(messages=CHAT, **{**GREEDY, **fields})


def refused(error, status, call, says=""):
    try:
        answer = call()
    except error as e:
        check(type(e) is error and e.status_code == status, type(e), e.status_code)
        check(e.request_id, "no request id")
        check(says in str(e), says, str(e))
        return
    raise AssertionError(f"{error.__name__} was expected, found {answer}")


def adds_up(usage, completion):
    check(usage.completion_tokens == completion, usage)
    check(usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + completion, usage)


def models():
    check(client.models.retrieve(model).id == model)
    check(client.models.list().data[0].object == "model")


def completions():
    one = complete(max_tokens=8)
    check(one.object == "text_completion" and one.id.startswith("cmpl-") and one.model == model, one)
    check(len(one.choices) == 1 and one.choices[0].finish_reason == "length" and one.choices[0].text, one)
    adds_up(one.usage, 8)
    many = complete(max_tokens=8, n=3, temperature=1.5, seed=4)
    check([c.index for c in many.choices] == [0, 1, 2], many)
    check(len({c.text for c in many.choices}) > 1, many)
    check(many.usage.prompt_tokens == one.usage.prompt_tokens, many.usage)
    adds_up(many.usage, 24)
    again = complete(max_tokens=8, n=3, temperature=1.5, seed=4)
    check([c.text for c in again.choices] == [c.text for c in many.choices])
    check(complete(prompt=["a", "b"], max_tokens=1).choices[1].index == 1)
    check(complete(max_tokens=0, extra_body={"echo": True}).choices[0].text == "hello hello")


def middle(text):
    """Two characters from behind the middle; what was no character on the server (U+FFFD) stops nothing."""
    return next(text[i:i + 2] for i in range(len(text) // 2, len(text) - 1) if "\ufffd" not in text[i:i + 2])


def stops():
    """A stop string ends the text before it, and no other thing does."""
    text = complete(max_tokens=40).choices[0].text
    stop = middle(text)
    for streamed in (False, True):
        answer = complete(max_tokens=40, stop=[stop, "\x00 never"], stream=streamed)
        if streamed:
            chunks = [c.choices[0] for c in answer if c.choices]
            found, reason = "".join(c.text for c in chunks), chunks[-1].finish_reason
        else:
            found, reason = answer.choices[0].text, answer.choices[0].finish_reason
        check(found == text[:text.index(stop)] and reason == "stop", streamed, text, stop, found, reason)
    check(complete(max_tokens=40, stop=["\x00 never"]).choices[0].text == text)
    said = chat(max_tokens=40).choices[0].message.content
    stop = middle(said)
    ended = chat(max_tokens=40, stop=stop).choices[0]
    check(ended.message.content == said[:said.index(stop)] and ended.finish_reason == "stop", said, stop, ended)


def completion_logprobs():
    choice = complete(prompt="héllo", max_tokens=6, logprobs=2, extra_body={"echo": True, "ignore_eos": True}).choices[0]
    lp = choice.logprobs
    size = len(lp.tokens)
    check(size > 6 and size == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset), lp)
    check(lp.token_logprobs[0] is None and lp.top_logprobs[0] is None, lp)
    check(lp.text_offset[0] == 0 and lp.text_offset == sorted(lp.text_offset), lp.text_offset)
    for i in range(1, size):
        check(lp.token_logprobs[i] <= 0 and 2 <= len(lp.top_logprobs[i]) <= 3, lp.top_logprobs[i])
        check(lp.token_logprobs[i] <= max(lp.top_logprobs[i].values()), i)
    for token, at in list(zip(lp.tokens, lp.text_offset))[-6:]:
        if not token.startswith("bytes:") and not token.startswith("<"):
            check(choice.text[at:].startswith(token), choice.text, token, at)


def chats():
    answer = chat(max_tokens=5, n=2)
    check(answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer)
    check([c.message.role for c in answer.choices] == ["assistant"] * 2, answer)
    check(all(c.finish_reason == "length" for c in answer.choices), answer)
    adds_up(answer.usage, 10)
    lp = chat(max_tokens=5, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    check(len(lp) == 5 and all(len(t.top_logprobs) == 3 for t in lp), lp)
    for token in lp:
        values = [t.logprob for t in token.top_logprobs]
        check(values == sorted(values, reverse=True) and sum(map(math.exp, values)) <= 1.0001, values)
        check(token.logprob == values[0], "greedy", token)
        check(bytes(token.bytes).decode("utf-8", "replace") == token.token or token.token.startswith("bytes:"), token)


def streams():
    """A stream says what the whole answer says."""
    whole = complete(max_tokens=12)
    chunks = list(complete(max_tokens=12, stream=True, stream_options={"include_usage": True}))
    check("".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text, chunks)
    check([c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length", chunks)
    check(not chunks[-1].choices and all(c.usage is None for c in chunks[:-1]), chunks)
    adds_up(chunks[-1].usage, 12)
    check(chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens)
    whole = chat(max_tokens=12)
    chunks = list(chat(max_tokens=12, stream=True, stream_options={"include_usage": True}))
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    check(deltas[0].role == "assistant", deltas)
    check("".join(d.content or "" for d in deltas) == whole.choices[0].message.content, deltas)
    check(chunks[-2].choices[0].finish_reason == "length", chunks[-2])
    adds_up(chunks[-1].usage, 12)
    check(len({c.id for c in chunks}) == 1 and chunks[0].object == "chat.completion.chunk", chunks[0])


def errors():
    refused(openai.BadRequestError, 400, lambda: chat(tools=[{"type": "function", "function": {"name": "f"}}]), "tools")
    refused(openai.BadRequestError, 400, lambda: chat(response_format={"type": "json_object"}), "response_format")
    refused(openai.BadRequestError, 400, lambda: complete(max_tokens=-5), "-5")
    refused(openai.BadRequestError, 400, lambda: complete(top_p=7), "top_p")
    refused(openai.BadRequestError, 400, lambda: complete(prompt=[1] * 100000), "100000")
    refused(openai.NotFoundError, 404, lambda: complete(model="gpt-4"), "gpt-4")
    refused(openai.NotFoundError, 404, lambda: client.models.retrieve("gpt-4"), "gpt-4")
    stranger = openai.OpenAI(base_url=URL, api_key="bad", max_retries=0)
    refused(openai.AuthenticationError, 401, stranger.models.list)


for part in (models, completions, stops, completion_logprobs, chats, streams, errors):
    before = checked
    part()
    print(f"{part.__name__}: {checked - before} checks")
print(f"openai {openai.__version__}: {checked} checks hold")
