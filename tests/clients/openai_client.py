#!/usr/bin/env python3
"""What the openai client sees of a running server: openai_client.py BASE_URL KEY (pip install openai)."""
import sys

from openai import OpenAI, BadRequestError, AuthenticationError, NotFoundError
c=OpenAI(base_url=sys.argv[1],api_key=sys.argv[2],max_retries=0)
m=c.models.list().data[0].id; print(m)
p="hello "*2
r=c.completions.create(model=m,prompt=p,max_tokens=8,n=2,logprobs=1,stop=["zz"]); print(len(r.choices), r.usage.total_tokens, len(r.choices[0].logprobs.tokens))
try:
    r=c.chat.completions.create(model=m,messages=[{"role":"user","content":"hi"}],max_tokens=5); print(r.choices[0].finish_reason, r.usage.completion_tokens)
    s=c.chat.completions.create(model=m,messages=[{"role":"user","content":"hi"}],max_tokens=5,stream=True,stream_options={"include_usage":True}); l=list(s); print(len(l), l[-1].usage.completion_tokens)
except BadRequestError as e: print("chat:", e)
for kw,err in (({"tools":[{"type":"function","function":{"name":"f"}}]},BadRequestError),({"response_format":{"type":"json_object"}},BadRequestError)):
    try: c.chat.completions.create(model=m,messages=[{"role":"user","content":"hi"}],**kw); print("no error")
    except err as e: print(type(e).__name__, e.status_code, e.request_id)
try: c.completions.create(model="x",prompt="a")
except NotFoundError as e: print("404 ok")
try: OpenAI(base_url=sys.argv[1],api_key="bad",max_retries=0).models.list()
except AuthenticationError as e: print("401 ok")
