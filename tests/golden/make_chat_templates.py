#!/usr/bin/env python3
"""Writes chat_templates.json: what Jinja makes of chat templates, run as transformers runs them.

The templates are written for this test, with the constructs and the layout of turns that the templates of the named
families have. Needs jinja2 only: python3 -m venv V && V/bin/pip install jinja2 && V/bin/python make_chat_templates.py
"""
import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 3, 9, 8, 7, 6)


class Generation(Extension):
    """{% generation %}…{% endgeneration %}: transformers' mark of the assistant's words."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_keep"), [], [], body).set_lineno(line)

    def _keep(self, caller):
        return caller()


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = NOW.strftime
    return env


TEMPLATES = {}

TEMPLATES["chatml"] = r"""{% for message in messages %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

TEMPLATES["smollm2"] = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe of use.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

TEMPLATES["llama2"] = r"""
{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
    {% set instruction = messages[0]['content'] %}
{% else %}
    {% set rest = messages %}
    {% set instruction = false %}
{% endif %}
{% for turn in rest %}
    {% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('user and assistant must take turns') }}
    {% endif %}
    {% if loop.index0 == 0 and instruction != false %}
        {% set text = '<<SYS>>\n' + instruction.strip() + '\n<</SYS>>\n\n' + turn['content'] %}
    {% else %}
        {% set text = turn['content'] %}
    {% endif %}
    {% if turn['role'] == 'user' %}
        {{- bos_token + '[INST] ' + text.strip() + ' [/INST]' -}}
    {% elif turn['role'] == 'assistant' %}
        {{- ' ' ~ text.strip() ~ ' ' ~ eos_token -}}
    {% endif %}
{% endfor %}
"""

TEMPLATES["llama3"] = (
    "{% set turns = messages %}{% for turn in turns %}{% set text = '<|start_header_id|>' + turn['role'] + "
    "'<|end_header_id|>\n\n'+ turn['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")

TEMPLATES["llama3_tools"] = r"""
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The first message, if it is the system's, stands apart. -#}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_text = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_text = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code') | join(", ") + "\n\n"}}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_text }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}" }}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

TEMPLATES["mistral"] = r"""
{%- if messages[0]["role"] == "system" %}
    {%- set system_text = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for turn in turns %}
    {%- if not (turn.role == "tool" or (turn.tool_calls is defined and turn.tool_calls is not none)) %}
        {%- if (turn["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("turns must alternate: user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn["role"] == "user" %}
        {%- if tools is not none and (turn == asked[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {{- ", " if not loop.last else "]" }}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_text is defined %}
            {{- "[INST] " + system_text + "\n\n" + turn["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + turn["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif turn["role"] == "assistant" %}
        {{- " " + turn["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are known, not " + turn["role"] + "!") }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES["gemma"] = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")

TEMPLATES["gemma_parts"] = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = turn['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (prefix if loop.first else "") }}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- elif turn['content'] is iterable -%}
        {%- for item in turn['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("content of no known type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

TEMPLATES["qwen25"] = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You help.' }}
    {%- endif %}
    {{- "\n\n# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

TEMPLATES["qwen3"] = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query %}
            {%- if loop.last or (not loop.last and thoughts) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

TEMPLATES["marked"] = r"""{% macro turn(role, text='', end='<|end|>\n') %}<|{{ role }}|>
{{ text }}{{ end }}{%- endmacro -%}
{%- for m in messages if m.role != 'system' -%}
{%- if loop.index > 5 %}{% break %}{% endif -%}
{%- if m.content == 'skip' %}{% continue %}{% endif -%}
{%- if m.role == 'assistant' -%}
{{ turn(m.role, end='') }}{% generation %}{{ m.content }}{% endgeneration %}<|end|>
{% else -%}
{{ turn(m.role, text=m.content) }}
{%- endif -%}
{%- else -%}
{{ 'nothing was said' }}
{%- endfor -%}
{% set greeting %}<|assistant|>
{% endset %}
{{- greeting if add_generation_prompt else '' -}}
"""

# Expressions, one a line: what each prints.
EXPRESSIONS = r"""
{{ 1 + 2 * 3 - 4 // 3 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 1.5 + 1 }} {{ 10 / 5 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }} {{ 'ab' * 3 }} {{ "it's" }} {{ 'q"q' }} {{ 'x\ty\\n\u00e9' }}
{{ [1, 'two', none, true, 2.5, {'k': [1]}] }} {{ (1, 2)[1] }} {{ {'a': 1, "b": {'c': 2}}.b.c }} {{ {} }}
{{ 'hello'[1] }} {{ 'hello'[-1] }} {{ 'hello'[1:3] }} {{ 'hello'[::-1] }} {{ 'héllo wörld'[1:8:2] }} {{ [1,2,3,4][-2:] }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' in 'cat' }} {{ 3 not in [1, 2] }} {{ 'k' in {'k': 0} }} {{ not true or 1 and 2 }}
{{ none == false }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ [1, [2]] == [1, [2]] }} {{ missing == none }}
{{ missing }}|{{ missing | default('d') }}|{{ '' | default('e', true) }}|{{ missing is defined }}|{{ missing | length }}
{{ 'x' if 0 else 'y' }} {{ 'x' if false }} {{ 'a' if 1 else 'b' if 1 else 'c' }}
{{ ' a b '.strip() }}|{{ ' a b '.lstrip() }}|{{ ' a b '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' \u00a0t\u3000' | trim }}|
{{ 'a,b,c'.split(',') }} {{ 'a  b\tc'.split() }} {{ 'a-b-c'.split('-', 1) }} {{ 'a-b-c'.rsplit('-', 1) }} {{ ','.join(['x', 'y']) }}
{{ 'Hello World'.upper() }} {{ 'Hello World' | lower }} {{ 'hello wORLD' | title }} {{ 'hELLO wORLD' | capitalize }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX' | replace('X', '-') }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abcabc'.find('c') }} {{ 'aa'.count('a') }}
{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %} {% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %} {{ {'b': 1}.get('c') }} {{ {'b': 1}.get('c', 5) }} {{ {'b': 1, 'a': 2}.keys() | list }} {{ {'b': 3}.values() | list }}
{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort(reverse=true) }} {{ [1, 2, 1] | unique | list }} {{ [1, 2, 3] | reverse | list }} {{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ [] | first }}
{{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 0, 2] | select | list }} {{ [1, 2] | reject('equalto', 1) | list }} {{ [1, 2, 3] | map('string') | join('-') }} {{ [{'n': 1}, {'n': 2}] | map(attribute='n') | list }}
{{ [{'r': 'u', 'c': 1}, {'r': 'a', 'c': 2}] | selectattr('r', 'equalto', 'a') | list }} {{ [{'r': 'u'}, {}] | selectattr('r') | list | length }} {{ [{'r': 'u'}, {'r': 'a'}] | rejectattr('r', 'in', ['u']) | list }}
{{ {'a': [1, 2.5, none, true], 'b': 'é"\n</x>'} | tojson }} {{ {'a': {'b': []}, 'c': {}} | tojson(indent=2) }} {{ [] | tojson(indent=4) }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|
{{ '12' | int + 1 }} {{ 'x' | int }} {{ '3.9' | float }} {{ 3.9 | int }} {{ 5 | string + 'x' }} {{ [1, 2] | string }}
{{ 1 is number }} {{ 'x' is string }} {{ {} is mapping }} {{ [] is sequence }} {{ 'x' is iterable }} {{ none is none }} {{ 1 is not none }} {{ true is boolean }} {{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ 1.0 is float }} {{ 1 is integer }} {{ true is true }} {{ 1 is eq 1 }}
{{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3, 0, -1) | list }} {{ dict(a=1, b='x') }}
{%- for a, b in [(1, 2), [3, 4]] %} {{ a }}{{ b }}{{ loop.index }}{{ loop.revindex0 }}{{ loop.length }}{{ loop.previtem is defined }}{{ loop.nextitem }}{% endfor %}
{% for x in [] %}never{% else %} none{% endfor %}{% for c in 'héy' %}<{{ c }}>{% endfor %}{% for k in {'p': 1, 'q': 2} %}{{ k }}{% endfor %}
{% set v = 1 %}{% for i in [1, 2] %}{% set v = v + i %}{{ v }}{% endfor %}{{ v }}{% if true %}{% set v = 9 %}{% endif %}{{ v }}
{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}
  {%+ if true %} kept {% endif +%}
   {% if true %}
 indented
   {% endif %}
{# a comment #}
{{ '{{' }}{{ '%}' }}{{ {'a': {'b': 1}}}}
{{- ' tight ' -}}
end
"""
TEMPLATES["expressions"] = EXPRESSIONS

CHATS = [
    [{"role": "user", "content": "What is a bit plane?"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi  "}],
    [{"role": "user", "content": " 1+1?\n"}, {"role": "assistant", "content": "\n<think>\nsum\n</think>\n\n 2 "},
     {"role": "user", "content": "Und für 2+2?\nDenk nach. 🙂"}],
    [{"role": "user", "content": "skip"}, {"role": "user", "content": "twice"}],
    [{"role": "system", "content": "Only this."}],
]
TOOLS = [{"type": "function", "function": {"name": "now", "description": "The time", "parameters":
          {"type": "object", "properties": {"zone": {"type": "string"}}}, "return": "str"}}]
CALLS = [{"role": "user", "content": "Time?"},
         {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "now", "arguments": {"zone": "UTC"}}}]},
         {"role": "tool", "content": "12:00"}]


def render(env, text, variables):
    try:
        return {"rendered": env.from_string(text).render(**variables)}
    except jinja2.exceptions.TemplateError as e:
        return {"refused": str(e)}


def main():
    env = environment()
    cases = []
    for name, text in TEMPLATES.items():
        chats = CHATS if name != "expressions" else CHATS[:1]
        for messages in chats:
            for generate in (False, True):
                variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generate,
                             "bos_token": "<s>", "eos_token": "</s>"}
                cases.append({"template": name, "variables": variables, **render(env, text, variables)})
    for name in ("llama3_tools", "qwen25", "mistral"):
        for messages in (CHATS[1], CALLS):
            variables = {"messages": messages, "tools": TOOLS, "add_generation_prompt": True, "bos_token": "<s>",
                         "eos_token": "</s>", "builtin_tools": ["search", "code"]}
            cases.append({"template": name, "variables": variables, **render(env, text := TEMPLATES[name], variables)})
    variables = {"messages": CHATS[0], "add_generation_prompt": True, "enable_thinking": False}
    cases.append({"template": "qwen3", "variables": variables, **render(env, TEMPLATES["qwen3"], variables)})
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What? "}]}]
    variables = {"messages": parts, "add_generation_prompt": True, "bos_token": "<s>"}
    cases.append({"template": "gemma_parts", "variables": variables, **render(env, TEMPLATES["gemma_parts"], variables)})
    out = {"jinja2": jinja2.__version__, "now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
           "templates": TEMPLATES, "cases": cases}
    path = pathlib.Path(__file__).parent / "chat_templates.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(f"{path}: {len(cases)} cases")


if __name__ == "__main__":
    main()
