"""Small real tokenizers with the chat templates that models of today have."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Which is larger: 847 or 839? Answer with one number.",
    "The capital of France is Paris. You are a helpful assistant.",
    "Describe this image: is the sky blue, grey or black?",
    "user system assistant model USER ASSISTANT",
]
SPECIALS = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
IMAGES = {
    "image_token": "<image>",
    "context_image_token": "<image>",
    "boi_token": "<boi>",
    "start_image_token": "<boi>",
    "eoi_token": "<eoi>",
    "end_image_token": "<eoi>",
    "video_token": "<video>",
    "fake_image_token": "<fake>",
    "global_image_token": "<global>",
    "end_of_utterance_token": "<|im_end|>",
}
"""The names by which processors look for their tokens."""

CHATML = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif -%}"
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{%- if not (loop.last and m['role'] == 'assistant' and continue_final_message) -%}"
    "{{ '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{ '<think>\n\n</think>\n\n' }}{%- endif -%}{%- endif -%}"
)
"""As Qwen's: a default system prompt, an option for thinking, no BOS."""

TURNS = (
    "{{ bos_token }}{%- for m in messages -%}"
    "{%- if m['role'] == 'system' -%}"
    "{{ raise_exception('System role not supported') }}{%- endif -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>model\n' }}{%- endif -%}"
)
"""As Gemma's: BOS written by the template, texts trimmed, no system prompt."""

DATED = (
    "{{ bos_token }}{%- if not date_string is defined -%}"
    "{%- set date_string = strftime_now('%d %b %Y') -%}{%- endif -%}"
    "<|im_start|>system\nToday: {{ date_string }}\n"
    "{%- if messages[0]['role'] == 'system' -%}{{ messages[0]['content'] }}{%- endif -%}<|im_end|>"
    "{%- for m in messages if m['role'] != 'system' -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""As Llama 3's: the date of the day in the system prompt."""

SPOKEN = (
    "{{ bos_token }}{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}{{ 'USER: ' + m['content'] + ' ' }}"
    "{%- elif m['role'] == 'assistant' -%}{{ 'ASSISTANT: ' + m['content'] }}"
    "{%- else -%}{{ m['content'] + ' ' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)
"""As Vicuna's: no special tokens around the turns, a space before the answer."""


def tokenizer(
    template: str | None = CHATML, *, bos: bool = True, pad: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred tokens; with ``bos``, plain calls begin with ``<s>``."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[
            AddedToken(each, special=True) for each in dict.fromkeys([*SPECIALS, *IMAGES.values()])
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    if bos:
        core.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(
                    single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
                ),
            ]
        )
    options: dict[str, Any] = {"bos_token": "<s>"} if bos else {}
    if pad:
        options["pad_token"] = "<pad>"
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="</s>",
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_specific_special_tokens=IMAGES,
        **options,
    )
    made.chat_template = template
    return made
