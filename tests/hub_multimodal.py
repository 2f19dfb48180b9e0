"""Backbones of KerasHub for several kinds of data, with the number of skip paths."""

from collections.abc import Callable
from typing import Any

from hub_images import PATCHES, VITDET
from hub_text import HEADS, SIZES, backbone
from keras_hub import layers, models

TOWER = {**SIZES, "num_layers": 2, "embedding_dim": 16}


def pair(name: str, **more: Any) -> Any:
    """Return two towers of images and text."""
    vision = getattr(models, f"{name}VisionEncoder")(**PATCHES)
    text = getattr(models, f"{name}TextEncoder")(**TOWER)
    return getattr(models, f"{name}Backbone")(vision_encoder=vision, text_encoder=text, **more)


def sam() -> Any:
    return models.SAMBackbone(
        image_encoder=models.ViTDetBackbone(**VITDET),
        prompt_encoder=layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(8, 8),
            input_image_size=(128, 128),
            mask_in_channels=16,
        ),
        mask_decoder=layers.SAMMaskDecoder(
            num_layers=2,
            hidden_size=8,
            intermediate_dim=22,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=8,
        ),
    )


MULTIMODAL_MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "CLIP": (lambda: pair("CLIP", projection_dim=16), 8),
    "Flux": (
        backbone(
            "Flux",
            input_channels=8,
            hidden_size=16,
            mlp_ratio=2.0,
            num_heads=2,
            depth=2,
            depth_single_blocks=4,
            axes_dim=[2, 2, 4],
            theta=100,
            use_bias=True,
            guidance_embed=True,
            image_shape=(7, 8),
            text_shape=(5, 8),
            image_ids_shape=(7, 3),
            text_ids_shape=(5, 3),
            y_shape=(8,),
        ),
        2 * 4 + 4,
    ),
    "MetaCLIP2": (lambda: pair("MetaCLIP2", projection_dim=16), 8),
    "PARSeq": (
        lambda: models.PARSeqBackbone(
            image_encoder=models.ViTBackbone(
                image_shape=(32, 32, 3),
                patch_size=(8, 8),
                num_layers=2,
                num_heads=2,
                hidden_dim=16,
                mlp_dim=22,
                use_class_token=False,
            ),
            vocabulary_size=31,
            max_label_length=9,
            decoder_hidden_dim=16,
            num_decoder_layers=1,
            num_decoder_heads=2,
            decoder_mlp_dim=22,
        ),
        2 * 2 + 3,
    ),
    "PaliGemma": (
        backbone(
            "PaliGemma",
            HEADS,
            image_size=16,
            vit_patch_size=4,
            vit_num_heads=2,
            vit_hidden_dim=8,
            vit_num_layers=2,
        ),
        2 * 2 + 6,
    ),
    "SAM": (sam, 2 * 4),  # no decoder in this graph
    "SigLIP": (lambda: pair("SigLIP"), 8 + 1),  # and the head that pools the image
    "VideoPrism": (
        backbone(
            "VideoPrism",
            num_frames=4,
            patch_size=8,
            hidden_dim=16,
            intermediate_dim=22,
            num_heads=2,
            num_spatial_layers=2,
            num_temporal_layers=2,
            num_auxiliary_layers=1,
            vocabulary_size=31,
            num_text_layers=2,
            image_shape=(32, 32, 3),
        ),
        2 * (2 + 2 + 1 + 2),
    ),
}
