"""Tiny vision-language models with random weights, and the processors that feed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.capturing import families

VISION = (
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3_vlm",
    "internvl", "paligemma", "smolvlm",
)  # fmt: skip
SIDE = 16
"""Pixels per side of the images that the towers take; patches have 8, so 4 of them."""

_TEXT = {
    "hidden_size": families.WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": families.BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": families.VOCAB,
    "pad_token_id": families.PAD,
    "bos_token_id": families.BOS,
    "eos_token_id": families.EOS,
}
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
_SIZE = {"height": SIDE, "width": SIDE}
_PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
_PLACEHOLDERS = {
    "qwen2_vl": "<|vision_start|><image><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><image><|vision_end|>",
    "qwen3_vl": "<|vision_start|><image><|vision_end|>",
    "gemma3_vlm": "<|vision_start|>",
}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def build_vlm(name: str, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return a model of the family, in evaluation mode, and its processor (left padding)."""
    from transformers import AutoModelForImageTextToText

    processor = build_processor(name)
    image, start, end, video = processor.tokenizer.convert_tokens_to_ids(
        ["<image>", "<|vision_start|>", "<|vision_end|>", "<video>"]
    )
    config = _config(name, image=image, start=start, end=end, video=video)
    config.pad_token_id, config.eos_token_id = families.PAD, families.EOS
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    return families.enliven(model, seed).to(dtype), processor


def picture(seed: int, *, width: int = SIDE, height: int = SIDE) -> Any:
    """Return a noisy RGB image."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _config(name: str, *, image: int, start: int, end: int, video: int) -> Any:
    import transformers as t

    if name == "llava":
        return t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**_TOWER),
            text_config=t.LlamaConfig(**_TEXT),
            image_token_index=image,
            image_seq_length=4,
        )
    if name == "llava_next":
        return t.LlavaNextConfig(
            vision_config=t.CLIPVisionConfig(**_TOWER),
            text_config=t.MistralConfig(**_TEXT, head_dim=8),
            image_token_index=image,
            image_grid_pinpoints=_PINPOINTS,
            image_seq_length=4,
        )
    if name == "llava_onevision":
        return t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**_TOWER, vision_use_head=False),
            text_config=t.Qwen2Config(**_TEXT),
            image_token_index=image,
            video_token_index=video,
            image_grid_pinpoints=_PINPOINTS,
        )
    if name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        return _qwen(name, image=image, start=start, end=end, video=video)
    if name == "gemma3_vlm":
        return t.Gemma3Config(
            vision_config=t.SiglipVisionConfig(**_TOWER, vision_use_head=False),
            text_config=t.Gemma3TextConfig(
                **_TEXT, head_dim=8, sliding_window=8, query_pre_attn_scalar=8
            ),
            mm_tokens_per_image=4,
            image_token_id=image,
            image_token_index=image,
            boi_token_index=start,
            eoi_token_index=end,
        )
    if name == "internvl":
        return t.InternVLConfig(
            vision_config=t.InternVLVisionConfig(
                **{**_TOWER, "image_size": [SIDE, SIDE], "patch_size": [4, 4]}
            ),
            text_config=t.Qwen2Config(**_TEXT),
            image_token_id=image,
            image_seq_length=4,
            downsample_ratio=0.5,
        )
    if name == "paligemma":
        return t.PaliGemmaConfig(
            vision_config=t.SiglipVisionConfig(
                **_TOWER, vision_use_head=False, projection_dim=families.WIDTH
            ),
            text_config=t.GemmaConfig(**_TEXT, head_dim=8),
            image_token_index=image,
            projection_dim=families.WIDTH,
            hidden_size=families.WIDTH,
            vocab_size=families.VOCAB,
        )
    return t.SmolVLMConfig(
        vision_config=t.SmolVLMVisionConfig(**{**_TOWER, "patch_size": 4}),
        text_config=t.LlamaConfig(**_TEXT),
        image_token_id=image,
        scale_factor=2,
        pad_token_id=families.PAD,
    )


def _qwen(name: str, **ids: int) -> Any:
    import transformers as t

    tokens = {
        "image_token_id": ids["image"],
        "vision_start_token_id": ids["start"],
        "vision_end_token_id": ids["end"],
        "video_token_id": ids["video"],
    }
    text = {**_TEXT, "rope_parameters": _MROPE}
    if name == "qwen2_vl":
        vision: dict[str, Any] = {"depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 4}
        vision |= {"hidden_size": families.WIDTH}
        return t.Qwen2VLConfig(vision_config=vision, text_config=text, **tokens)
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": families.WIDTH,
    }
    if name == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 16}
        return t.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **tokens)
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    text["head_dim"] = 8
    return t.Qwen3VLConfig(vision_config=vision, text_config=text, **tokens)


def _without_video(kind: Any, images: Any, tokenizer: Any, **settings: Any) -> Any:
    """Build a processor that lacks the part for videos, which alone would need torchvision."""

    def check(self: Any, name: str, argument: Any) -> Any:
        if name == "video_processor" and argument is None:
            return type(None)
        return kind.check_argument_for_proper_class(self, name, argument)

    images_only = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    return images_only(images, tokenizer, None, **settings)


def build_processor(name: str) -> Any:
    """Return the family's own processor around the tests' tokenizer."""
    import transformers as t

    tokenizer = families.tokenizer(
        named={
            "image_token": "<image>",
            "video_token": "<video>",
            "boi_token": "<|vision_start|>",
            "eoi_token": "<|vision_end|>",
            "start_image_token": "<|vision_start|>",
            "end_image_token": "<|vision_end|>",
            "context_image_token": "<image>",
        }
    )
    template = families.CHAT_TEMPLATE.replace("<image>", _PLACEHOLDERS.get(name, "<image>"))
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": _SIZE}
    if name == "llava":
        return t.LlavaProcessor(
            t.CLIPImageProcessorPil(**crop),
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
    if name == "llava_next":
        return t.LlavaNextProcessor(
            t.LlavaNextImageProcessorPil(**crop, image_grid_pinpoints=_PINPOINTS),
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
    if name == "llava_onevision":
        return _without_video(
            t.LlavaOnevisionProcessor,
            t.LlavaOnevisionImageProcessorPil(size=_SIZE, image_grid_pinpoints=_PINPOINTS),
            tokenizer,
            num_image_tokens=4,
            vision_feature_select_strategy="full",
            chat_template=template,
        )
    if name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        classes = {
            "qwen2_vl": t.Qwen2VLProcessor,
            "qwen2_5_vl": t.Qwen2_5_VLProcessor,
            "qwen3_vl": t.Qwen3VLProcessor,
        }
        images = t.Qwen2VLImageProcessorPil(
            patch_size=4, size={"shortest_edge": SIDE**2, "longest_edge": 4 * SIDE**2}
        )
        return _without_video(classes[name], images, tokenizer, chat_template=template)
    if name == "gemma3_vlm":
        return t.Gemma3Processor(
            t.Gemma3ImageProcessorPil(size=_SIZE),
            tokenizer,
            image_seq_length=4,
            chat_template=template,
        )
    if name == "internvl":
        images = t.GotOcr2ImageProcessorPil(size=_SIZE, crop_to_patches=False)
        return _without_video(
            t.InternVLProcessor, images, tokenizer, image_seq_length=4, chat_template=template
        )
    if name == "paligemma":
        images = t.SiglipImageProcessorPil(size=_SIZE)
        images.image_seq_length = 4
        return t.PaliGemmaProcessor(images, tokenizer)
    images = t.Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    return t.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
