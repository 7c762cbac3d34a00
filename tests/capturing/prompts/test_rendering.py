"""Prompts as text: chat templates, raw texts, and whose characters are whose."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from actstore.capturing.prompts.example import Example
from actstore.capturing.prompts.rendering import Rendered, Renderer
from actstore.errors import ExampleError, UsageError
from tests.capturing.tokenizers import CHATML, DATED, SPOKEN, TURNS, tokenizer

QUESTION = "Which is larger: 847 or 839?"


def said(rendered: Rendered) -> list[tuple[str, str]]:
    return [(role, rendered.text[start:end]) for start, end, role in rendered.roles]


def cut(rendered: Rendered, name: str) -> str | None:
    span = getattr(rendered, name)
    return None if span is None else rendered.text[slice(*span)]


@pytest.mark.parametrize(
    ("template", "default", "answer"),
    [
        (CHATML, [("system", "You are a helpful assistant.")], "839"),
        (TURNS, [], "839"),
        (SPOKEN, [], "839"),
    ],
)
def test_each_text_is_found_where_it_stands(
    template: str, default: list[tuple[str, str]], answer: str
) -> None:
    held = tokenizer(template)
    renderer = Renderer(held)
    asked = renderer.render(Example(id="a", question=QUESTION))
    expected = held.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True
    )
    assert asked.text == expected
    assert said(asked) == [*default, ("user", QUESTION)]
    assert (cut(asked, "question"), cut(asked, "answer")) == (QUESTION, None)
    forced = renderer.render(Example(id="a", question=QUESTION, answer=answer))
    assert forced.text.startswith(expected)
    assert forced.text.endswith(answer)
    assert forced.text[len(expected) : -len(answer)].strip() == ""
    assert said(forced) == [*default, ("user", QUESTION), ("assistant", answer)]
    assert cut(forced, "answer") == answer


@pytest.mark.parametrize(
    "question", ["user", "system", "assistant", "You", "<|im_end|>", "\n x \n"]
)
@pytest.mark.parametrize("template", [CHATML, TURNS, SPOKEN])
def test_questions_that_look_like_the_template_are_told_from_it(
    template: str, question: str
) -> None:
    rendered = Renderer(tokenizer(template)).render(Example(id="a", question=question))
    assert said(rendered)[-1][1].strip() == question.strip()
    start, end = rendered.roles[-1][:2]
    assert rendered.question is not None
    assert start <= rendered.question[0] < rendered.question[1] <= end


def test_a_template_puts_the_space_before_an_answer() -> None:
    renderer = Renderer(tokenizer(SPOKEN))
    spoken = renderer.render(Example(id="a", question=QUESTION, answer="839"))
    assert spoken.text.endswith("ASSISTANT: 839")
    own = renderer.render(Example(id="a", question=QUESTION, answer="\n\n 839"))
    assert own.text.endswith("ASSISTANT:\n\n 839")
    assert cut(own, "answer") == "\n\n 839"


def test_a_system_prompt_replaces_the_templates_own() -> None:
    renderer = Renderer(tokenizer(CHATML), system="Be brief.")
    assert renderer.notes == []
    rendered = renderer.render(Example(id="a", question=QUESTION))
    assert said(rendered) == [("system", "Be brief."), ("user", QUESTION)]
    own = renderer.render(Example(id="a", question=QUESTION, system="Be long."))
    assert said(own)[0] == ("system", "Be long.")


def test_the_templates_own_system_prompt_is_noted() -> None:
    (note,) = Renderer(tokenizer(CHATML)).notes
    assert "'You are a helpful assistant.'" in note
    assert "--system" in note


def test_the_date_of_the_day_is_noted() -> None:
    today = datetime.now().strftime("%d %b %Y")
    (note,) = Renderer(tokenizer(DATED)).notes
    assert today in note
    assert "date_string" in note
    fixed = Renderer(tokenizer(DATED), options={"date_string": "26 Jul 2024"})
    assert fixed.notes == []
    assert "26 Jul 2024" in fixed.render(Example(id="a", question="q")).text


def test_thinking_can_be_turned_off() -> None:
    off = Renderer(tokenizer(CHATML), options={"enable_thinking": False}, system="x")
    assert off.render(Example(id="a", question="q")).text.endswith("</think>\n\n")
    (note,) = Renderer(tokenizer(TURNS), options={"enable_thinking": False}).notes
    assert "does not use enable_thinking" in note


def test_conversations() -> None:
    renderer = Renderer(tokenizer(CHATML), system="S.")
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "one"},
    ]
    asked = renderer.render(Example(id="a", messages=tuple(turns)))
    assert said(asked) == [("system", "S."), ("user", "one"), ("assistant", "two"), ("user", "one")]
    assert asked.question == asked.roles[-1][:2]
    answered = renderer.render(
        Example(id="a", messages=(*turns, {"role": "assistant", "content": "three"}))
    )
    assert answered.text == asked.text + "three"
    assert cut(answered, "answer") == "three"


def test_the_question_of_a_longer_message() -> None:
    turns = ({"role": "user", "content": f"Think. {QUESTION} Answer:"},)
    rendered = Renderer(tokenizer(TURNS)).render(Example(id="a", question=QUESTION, messages=turns))
    assert cut(rendered, "question") == QUESTION
    lost = Renderer(tokenizer(TURNS)).render(Example(id="a", question="other", messages=turns))
    assert lost.question is None


def test_a_template_that_refuses_names_the_example() -> None:
    renderer = Renderer(tokenizer(TURNS), system="Be brief.")
    with pytest.raises(
        ExampleError, match=r"example 'a': the chat template refuses .* System role"
    ):
        renderer.render(Example(id="a", question="q"))


def test_a_template_that_is_none_stops_everything() -> None:
    with pytest.raises(UsageError, match=r"the chat template, line 2: "):
        Renderer(tokenizer("x\n{% for %}")).render(Example(id="a", question="q"))


def test_without_a_template_texts_go_in_raw() -> None:
    renderer = Renderer(tokenizer(None))
    assert "no chat template" in renderer.notes[0]
    assert renderer.settings["prompt"] == "raw"
    on_purpose = Renderer(tokenizer(CHATML), chat_template=False)
    assert on_purpose.notes == []
    for each in (renderer, on_purpose):
        rendered = each.render(Example(id="a", question="Q:", answer="A"))
        assert rendered.text == "Q: A"
        assert (cut(rendered, "question"), cut(rendered, "answer")) == ("Q:", "A")
        assert not rendered.templated
    assert renderer.render(Example(id="a", question="Q:\n", answer="A")).text == "Q:\nA"
    system = Renderer(tokenizer(None), system="S").render(Example(id="a", question="Q"))
    assert said(system) == [("system", "S"), ("user", "Q")]
    with pytest.raises(ExampleError, match="needs a chat template"):
        renderer.render(Example(id="a", messages=({"role": "user", "content": "q"},)))
    with pytest.raises(UsageError, match="no chat template is in use"):
        Renderer(tokenizer(None), options={"x": 1})


def test_a_template_of_ones_own() -> None:
    text = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    renderer = Renderer(tokenizer(CHATML), chat_template=text)
    assert renderer.render(Example(id="a", question="q")).text == "[q]"
    other = Renderer(tokenizer(CHATML))
    assert renderer.settings["chat_template_sha256"] != other.settings["chat_template_sha256"]


def test_several_named_templates() -> None:
    held = tokenizer(None)
    held.chat_template = {"tool_use": "tools", "default": TURNS}
    assert Renderer(held).template == TURNS


def test_texts_that_a_template_changes_are_looked_for() -> None:
    text = (
        "{% for m in messages %}{{ m['content'] | replace('7', '') }}|{{ m['content'] }}"
        "{% endfor %}"
    )
    rendered = Renderer(tokenizer(None), chat_template=text).render(Example(id="a", question="1 7"))
    assert rendered.text == "1 |1 7"
    assert said(rendered) == [("user", "1 7")]


SYSTEM_LAST = (
    "{{ bos_token }}{%- set first = messages[0] -%}"
    "{%- for m in messages if m['role'] != 'system' -%}"
    "{%- if m['role'] == 'user' -%}{{ '[INST] ' }}"
    "{%- if loop.last and first['role'] == 'system' -%}{{ first['content'] + '\n\n' }}{%- endif -%}"
    "{{ m['content'] + '[/INST]' }}"
    "{%- else -%}{{ ' ' + m['content'] | trim + '</s>' }}{%- endif -%}{%- endfor -%}"
)
"""As Mistral's: the system prompt stands before the last question, and only answers are trimmed."""

THOUGHTS = CHATML.replace("+ m['content']", "+ m['content'].split('</think>')[-1]")
"""As Qwen 3's and DeepSeek R1's: thoughts of earlier turns are left out."""


@pytest.mark.parametrize("word", ["I", "N", "user", "s", "Be", " I \n"])
def test_texts_that_stand_in_another_order_or_are_cut_are_told_by_what_stands_around(
    word: str,
) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": word},
        {"role": "assistant", "content": f"<think>{word} {word}</think>{word.strip()}"},
        {"role": "user", "content": word},
    ]
    for template in (SYSTEM_LAST, THOUGHTS):
        asked = Renderer(tokenizer(template)).render(Example(id="a", messages=tuple(turns)))
        around = Renderer(tokenizer(template)).render(
            Example(id="a", messages=(*turns[:-1], {"role": "user", "content": "?" * 9}))
        )
        assert [role for role, _ in said(asked)].count("user") == 2
        assert ("system", "Be brief.") in said(asked)
        assert cut(asked, "question") == word
        assert asked.question is not None
        assert asked.question[0] == around.text.index("?" * 9)


def test_images_need_a_model_that_sees() -> None:
    for template in (CHATML, None):
        renderer = Renderer(tokenizer(template))
        with pytest.raises(ExampleError, match="takes texts only"):
            renderer.render(Example(id="a", question="q", image="x.png"))


@pytest.mark.parametrize(("asks", "answers"), [("user", "tool"), ("human", "assistant")])
def test_what_a_tool_answers_is_no_question(asks: str, answers: str) -> None:
    turns = (
        {"role": asks, "content": "Which is larger?"},
        {"role": "assistant", "content": "I look."},
        {"role": answers, "content": "847 839"},
    )
    last = () if answers == "tool" else ({"role": asks, "content": "Well?"},)
    rendered = Renderer(tokenizer(CHATML)).render(Example(id="a", messages=(*turns, *last)))
    assert cut(rendered, "question") == ("Well?" if last else "Which is larger?")
    roles = [role for role, _ in said(rendered) if role != "system"]
    assert roles == ["user", "assistant", "user" if answers == "tool" else "assistant"] + [
        "user" for _ in last
    ]
