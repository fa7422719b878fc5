"""From a request to what ``dspark_lab.stream`` takes: token ids and options. Raises ApiError for what cannot be."""

import json
import secrets
from dataclasses import dataclass

from dspark_lab.generate import encode_chat, encode_prompt
from dspark_lab.serve.guard import ApiError
from dspark_lab.serve.schema import ChatRequest, NamedTool

COLDEST = 1e-3  # below it, logits divided by the temperature leave float32
TEXT_TOKENS = 16  # of a completion that names no max_tokens, as OpenAI has it


@dataclass
class Prompt:
    """``ids``: token ids; ``tools``: the functions that may be called, in OpenAI's form; ``inside``: the part of the
    answer ("reasoning" or "tool") that the prompt has already opened, or None."""

    ids: list[int]
    tools: list[dict]
    inside: str | None = None


def chat_prompt(pair, request):
    """The Prompt of a ChatRequest."""
    tools = chosen_tools(request)
    if tools and not pair.tokenizer.has_tool_calling:
        raise ApiError(400, f"the chat template of {pair.name} takes no tools; leave them out", param="tools")
    forced = bool(tools) and (request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool))
    template = {"tools": tools} if tools else {}
    if forced or request.enable_thinking is not None:
        template["enable_thinking"] = bool(request.enable_thinking) and not forced
    ids = encode_chat(pair, [message(each) for each in request.messages], **template)
    if forced:
        return Prompt([*ids, *pair.tokenizer.tool_call_start_tokens], tools, "tool")
    return Prompt(ids, tools, "reasoning" if begins_thinking(pair.tokenizer, ids) else None)


def chosen_tools(request):
    """The tools that may be called, in OpenAI's form; one alone where the request names it."""
    choice = request.tool_choice
    if choice == "none" or not request.tools:
        if isinstance(choice, NamedTool) or choice == "required":
            raise ApiError(400, "tool_choice asks for a call, but there are no tools", param="tool_choice")
        return []
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools]
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool["function"]["name"] == choice.function.name]
        if not tools:
            raise ApiError(400, f"tool_choice names {choice.function.name}, which is not in tools", param="tool_choice")
    return tools


def message(given):
    """A Message as chat templates expect it: plain text, and calls with their arguments as objects."""
    content = given.content if isinstance(given.content, str) else "".join(part.text for part in given.content or [])
    role = "system" if given.role == "developer" else given.role
    turn = {"role": role, "content": content}
    turn |= {name: value for name in ("name", "tool_call_id") if (value := getattr(given, name))}
    if given.tool_calls:
        turn["tool_calls"] = [call(each) for each in given.tool_calls]
    return turn


def call(given):
    """A ToolCall with its arguments as an object."""
    try:
        arguments = json.loads(whole_characters(json.loads(given.function.arguments or "{}")))
    except (ValueError, RecursionError):
        raise ApiError(400, "the arguments of a tool call are no JSON that can be read", param="messages") from None
    return {"id": given.id, "type": "function", "function": {"name": given.function.name, "arguments": arguments}}


def whole_characters(value):
    """``value`` as JSON in which half a surrogate pair, which has no UTF-8, has become a question mark."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()


def begins_thinking(tokenizer, ids):
    """Whether the template has opened the thoughts at the end of ``ids``."""
    if not tokenizer.has_thinking:
        return False
    return tokenizer.rfind_think_start(ids) > tokenizer.rfind_think_end(ids)


def make_prompt(pair, request):
    """The Prompt of a ChatRequest or TextRequest, checked against the target's context."""
    chat = isinstance(request, ChatRequest)
    try:
        prompt = chat_prompt(pair, request) if chat else Prompt(encode_prompt(pair, request.prompt, chat=False), [])
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    except (TypeError, RecursionError):  # of a template that stumbles over a value, or over one nested too deep
        raise ApiError(400, f"the request cannot be put into the chat template of {pair.name}") from None
    limit = pair.target.context_length
    if limit is not None and len(prompt.ids) >= limit:
        text = f"the prompt has {len(prompt.ids)} tokens; the model's context is {limit}, the answer's tokens included"
        raise ApiError(400, text, "context_length_exceeded", "messages" if chat else "prompt")
    return prompt


def options(request):
    """The options of ``dspark_lab.stream`` that a request asks for, its defaults being OpenAI's."""
    temperature = 1.0 if request.temperature is None else request.temperature
    if 0 < temperature < COLDEST:
        raise ApiError(400, f"temperature is {temperature}; give 0 (greedy) or at least {COLDEST}", param="temperature")
    chat = isinstance(request, ChatRequest)
    limit = (request.max_completion_tokens if chat else None) or request.max_tokens
    return {
        "temperature": float(temperature),
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "top_k": request.top_k or 0,
        "max_tokens": limit or (2**31 if chat else TEXT_TOKENS),
        "stop": request.stop or (),
        "seed": secrets.randbits(63) if request.seed is None else request.seed,
    }
