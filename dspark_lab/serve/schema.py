"""What is said over the wire: OpenAI's chat completions and completions, as far as they are supported.

What the API has and this server does not (several choices, log-probabilities, penalties, images, output formats) is
declared with the only value that means its absence, so that it is refused rather than ignored. Fields that neither
knows are ignored, as OpenAI's own do.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Stop = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern="^[a-zA-Z0-9_.-]{1,64}$")]
Nothing = Annotated[float, Field(ge=0, le=0)]


class Strict(BaseModel):
    """Takes no string for a number and no infinity."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """``include_usage``: send a last chunk with the token counts."""

    include_usage: bool = False


class TextFormat(Strict):
    """The only output format."""

    type: Literal["text"]


class Request(Strict):
    """What both endpoints take."""

    model: str | None = Field(None, description="One of /v1/models; the default one if left out.")
    temperature: float | None = Field(None, ge=0, description="0 is greedy; 1 if left out.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31, description="Keep this many tokens; 0 keeps all.")
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Seed | None = Field(None, description="One is drawn, and reported, if left out.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Nothing | None = None
    presence_penalty: Nothing | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class TextPart(Strict):
    """A piece of a message's content; images and sound are not supported."""

    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    """``arguments``: a JSON object, as text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Strict):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(Strict):
    """A function that the assistant may call; ``parameters`` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Strict):
    """Functions are the only tools."""

    type: Literal["function"]
    function: Function


class Named(Strict):
    """A function's name."""

    name: Name


class NamedTool(Strict):
    """The function that must be called."""

    type: Literal["function"]
    function: Named


class ChatRequest(Request):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31, description="Comes before max_tokens.")
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    enable_thinking: bool | None = Field(None, description="For models whose chat template knows it.")
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None


class TextRequest(Request):
    """The body of /v1/completions."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[int], Field(min_length=1)]
    logprobs: None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


class PromptDetails(BaseModel):
    """``cached_tokens``: prompt tokens that a kept cache held."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts; the completion's include the token that ended it, as ``dspark_lab.Result.tokens`` does."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Report(BaseModel):
    """How it was decoded: accepted length with the target's own token, passes of the target, and speed from the first
    tokens' arrival on."""

    mode: str
    seed: int
    passes: int
    mean_accepted_length: float
    tokens_per_second: float | None
    first_token_seconds: float | None


class AnswerMessage(BaseModel):
    """The assistant's turn. ``reasoning_content``: what a thinking model thought before."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """The one choice."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class TextChoice(BaseModel):
    """The one choice."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """What both endpoints answer with."""

    id: str
    created: int
    model: str
    usage: Usage
    x_dspark_lab: Report


class ChatCompletion(Completion):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextCompletion(Completion):
    """The answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Model(BaseModel):
    """A name that ``model`` can have."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "dspark-lab"


class Models(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """The answer of /health."""

    status: Literal["ok"] = "ok"


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every error is answered with."""

    error: ErrorDetail
