"""Tiny vision-language models with random weights, and the processors that feed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.capturing import families

VISION = (
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3_vlm",
    "internvl", "paligemma", "smolvlm", "idefics2", "idefics3",
)  # fmt: skip
HAND_MADE = ("pixtral", "mistral3", "llama4", "lfm2_vl")
"""Their processors need torchvision, so that their inputs are made here."""
EVERY = VISION + HAND_MADE
"""Every family of vision-language models that capture is tested on."""
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


def build_vlm(
    name: str, seed: int = 0, *, dtype: torch.dtype = torch.float32, attn: str | None = None
) -> tuple[Any, Any]:
    """Return a model of the family, in evaluation mode, and its processor (left padding)."""
    from transformers import AutoModelForImageTextToText

    processor = build_processor(name)
    image, start, end, video = processor.tokenizer.convert_tokens_to_ids(
        ["<image>", "<|vision_start|>", "<|vision_end|>", "<video>"]
    )
    config = _config(name, image=image, start=start, end=end, video=video)
    config.pad_token_id, config.eos_token_id = families.PAD, families.EOS
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attn)
    return families.cast(families.enliven(model, seed), dtype), processor


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
    if name in ("smolvlm", "idefics3"):
        own = name == "smolvlm"
        vision: Any = t.SmolVLMVisionConfig if own else t.Idefics3VisionConfig
        whole: Any = t.SmolVLMConfig if own else t.Idefics3Config
        return whole(
            vision_config=vision(**{**_TOWER, "patch_size": 4}),
            text_config=t.LlamaConfig(**_TEXT),
            image_token_id=image,
            scale_factor=2,
            pad_token_id=families.PAD,
        )
    return _LATER[name](image)


def _idefics2(image: int) -> Any:
    import transformers as t

    return t.Idefics2Config(
        vision_config={**_TOWER, "patch_size": 4},
        perceiver_config={
            "hidden_size": families.WIDTH,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        text_config=t.MistralConfig(**_TEXT, head_dim=8),
        image_token_id=image,
    )


def _pixtral(image: int) -> Any:
    import transformers as t

    return t.LlavaConfig(
        vision_config=t.PixtralVisionConfig(**_TOWER),
        text_config=t.MistralConfig(**_TEXT, head_dim=8),
        image_token_index=image,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )


def _mistral3(image: int) -> Any:
    import transformers as t

    return t.Mistral3Config(
        vision_config=t.PixtralVisionConfig(**{**_TOWER, "patch_size": 4}),
        text_config=t.MistralConfig(**_TEXT, head_dim=8),
        image_token_index=image,
        tie_word_embeddings=False,
    )


def _llama4(image: int) -> Any:
    import transformers as t

    return t.Llama4Config(
        vision_config=t.Llama4VisionConfig(
            **{**_TOWER, "patch_size": 4, "intermediate_size": 64},
            vision_output_dim=16,
            projector_input_dim=16,
            projector_output_dim=16,
        ),
        text_config=t.Llama4TextConfig(
            **_TEXT,
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=4,
            interleave_moe_layer_step=2,
            attention_chunk_size=8,
            no_rope_layers=[1, 0, 1],
        ),
        image_token_index=image,
        boi_token_index=families.VOCAB - 2,
        eoi_token_index=families.VOCAB - 1,
    )


def _lfm2_vl(image: int) -> Any:
    import transformers as t

    tower = {key: value for key, value in _TOWER.items() if key != "image_size"}
    return t.Lfm2VlConfig(
        vision_config=t.Siglip2VisionConfig(
            **{**tower, "patch_size": 4}, num_patches=16, vision_use_head=False
        ),
        text_config=t.Lfm2Config(**_TEXT, layer_types=["conv", "full_attention", "conv"]),
        image_token_id=image,
        projector_hidden_size=24,
        tie_word_embeddings=False,
    )


_LATER = {
    "idefics2": _idefics2,
    "pixtral": _pixtral,
    "mistral3": _mistral3,
    "llama4": _llama4,
    "lfm2_vl": _lfm2_vl,
}


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
            "image_boundary_token": "<fake_token_around_image>",
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
    if name == "idefics2":
        images = t.Idefics2ImageProcessorPil(
            size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}, do_image_splitting=False
        )
        return t.Idefics2Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    if name in HAND_MADE:
        return HandMade(name, tokenizer, template)
    images = t.Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    return t.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


class HandMade:
    """Makes the inputs that a family's processor would make."""

    def __init__(self, name: str, tokenizer: Any, chat_template: str) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.chat_template = chat_template

    def apply_chat_template(self, chats: list[Any], **options: Any) -> Any:
        """Return ids, mask and pixels of chats with an image each."""
        from transformers import BatchFeature

        images = [
            part["image"]
            for chat in chats
            for message in chat
            for part in message["content"]
            if part["type"] == "image"
        ]
        make = {"llama4": self._llama4, "lfm2_vl": self._lfm2_vl}.get(self.name, self._pixtral)
        pixels, written = make(images)
        texts = self.tokenizer.apply_chat_template(
            chats,
            tokenize=False,
            add_generation_prompt=options["add_generation_prompt"],
            chat_template=self.chat_template,
        )
        texts = [text.replace("<image>", image) for text, image in zip(texts, written, strict=True)]
        inputs = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        found = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        return BatchFeature({**found, **pixels})

    def _llama4(self, images: list[Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
        values = [_values(image.resize((SIDE, SIDE))) for image in images]
        return {"pixel_values": torch.stack(values)}, ["<image>" * 4] * len(images)

    def _pixtral(self, images: list[Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Return images padded to the largest; rows of tokens with a token after each."""
        sizes = torch.tensor([(image.height, image.width) for image in images])
        high, wide = sizes.amax(dim=0).tolist()
        values = torch.zeros(len(images), 3, high, wide)
        for row, image in enumerate(images):
            values[row, :, : image.height, : image.width] = _values(image)
        lines = [
            "<|vision_start|>".join(["<image>" * (image.width // 8)] * (image.height // 8))
            for image in images
        ]
        written = [line + "<|vision_end|>" for line in lines]
        return {"pixel_values": values, "image_sizes": sizes}, written

    def _lfm2_vl(self, images: list[Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
        """Return patches in rows, padded to those of the largest image."""
        shapes = [(image.height // 4, image.width // 4) for image in images]
        longest = max(high * wide for high, wide in shapes)
        values = torch.zeros(len(images), longest, 4 * 4 * 3)
        mask = torch.zeros(len(images), longest, dtype=torch.long)
        for row, (image, (high, wide)) in enumerate(zip(images, shapes, strict=True)):
            cut = _values(image).reshape(3, high, 4, wide, 4).permute(1, 3, 2, 4, 0)
            values[row, : high * wide] = cut.reshape(high * wide, -1)
            mask[row, : high * wide] = 1
        found = {"pixel_values": values, "pixel_attention_mask": mask}
        found["spatial_shapes"] = torch.tensor(shapes)
        return found, ["<image>" * (high * wide // 4) for high, wide in shapes]


def _values(image: Any) -> torch.Tensor:
    """Return pixels from -1 to 1, float32 ``[3, height, width]``."""
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
