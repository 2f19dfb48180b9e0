"""Conversations as text, by the Jinja templates of folders of Hugging Face.

The environment is that of `apply_chat_template` in `transformers`. Templates are the work of others
and run in a sandbox: they see values of JSON only, and cannot change them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as loop_controls
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_CONTINUED = "\ue0c5CONTINUED\ue0c5"  # marks the end of a message that is continued


def chat_text(
    templates: Mapping[str, str],
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, Any],
    *,
    template: str | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **variables: Any,
) -> str:
    """Return a conversation as the text that a model continues.

    Args:
        templates: Jinja templates by name.
        messages: the conversation, each message as `{"role": ..., "content": ...}`.
        special_tokens: variables of every template, such as `bos_token`.
        template: name of the template; by default `tool_use` if there are `tools` and such a
            template, otherwise `default`.
        add_generation_prompt: begin the reply.
        continue_final_message: leave the last message open, to be continued.
        variables: further variables of the template, such as `tools` and `documents`.

    Raises:
        TypeError: `messages` is no list of mappings, or a variable is not of a type of JSON.
        ValueError: no such template, a template with errors, or one that refuses the messages.
    """
    source = _chosen(templates, template, variables)
    if isinstance(messages, str | Mapping) or not all(isinstance(m, Mapping) for m in messages):
        raise TypeError('messages must be a list of {"role": ..., "content": ...}')
    if not messages:
        raise ValueError("there are no messages; give at least one")
    try:
        given = json.loads(json.dumps({**special_tokens, **variables, "messages": list(messages)}))
    except (TypeError, ValueError) as error:
        raise TypeError(f"messages and options of a template are values of JSON: {error}") from None
    if continue_final_message:
        add_generation_prompt = False
        content = given["messages"][-1].get("content")
        if not isinstance(content, str):
            raise ValueError("continue_final_message=True needs a last message with a text")
        given["messages"][-1]["content"] = content + _CONTINUED
    options = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
    try:
        text = _compiled(source).render({**options, **given})
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"the chat template cannot be applied to these messages: {reason}"
        ) from error
    if not continue_final_message:
        return text
    before, mark, _ = text.rpartition(_CONTINUED)
    if not mark:
        raise ValueError("continue_final_message=True: the template changes the last message")
    return before


def _chosen(templates: Mapping[str, str], name: str | None, variables: Mapping[str, Any]) -> str:
    if not templates:
        raise ValueError(
            "this tokenizer has no chat template; write the conversation as a text, and continue "
            "it with generate"
        )
    if name is None:
        uses_tools = variables.get("tools") is not None and "tool_use" in templates
        name = "tool_use" if uses_tools else "default"
    if name not in templates:
        known = ", ".join(sorted(templates))
        raise ValueError(f"there is no chat template {name!r}; choose template= from {known}")
    return templates[name]


class _Generation(Extension):
    """The tag `generation`, which marks the text of the model and does not change it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loop_controls]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def _to_json(value: Any, **options: Any) -> str:
    """Return JSON without the escapes of HTML that Jinja's own filter adds."""
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> None:
    raise TemplateError(message)
