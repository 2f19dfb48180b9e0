"""Backbones of KerasHub for several kinds of data, with the number of skip paths."""

from collections.abc import Callable
from typing import Any

from hub_images import MOBILE5, PATCHES, VITDET
from hub_text import HEADS, SIZES, backbone
from keras_hub import layers, models
from keras_hub.src.models.gemma3n.gemma3n_audio_encoder import Gemma3nAudioEncoder
from keras_hub.src.models.stable_diffusion_3.t5_encoder import T5Encoder
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

TOWER = {**SIZES, "num_layers": 2, "embedding_dim": 16}
SUBLAYERS = {"hidden_dim": 32, "intermediate_dim": 23, "num_heads": 2}
QUERIES = {"num_query_tokens": 5, "qformer_hidden_dim": 8, "dropout": 0.1}
GEMMA3N = {
    "text_vocab_size": 31,
    "text_hidden_size": 8,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": [22] * 3,
    "hidden_activation": "gelu_approximate",
    "layer_types": ["full_attention"] * 3,
    "sliding_window": 4,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 17,
    "vocab_size_per_layer_input": 31,
    "hidden_size_per_layer_input": 2,
    "altup_num_inputs": 2,
    "laurel_rank": 1,
    "vision_hidden_size": 24,
    "audio_hidden_size": 8,
}


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


def blip2(language_model: Any) -> Any:
    """Return an image encoder, a Q-Former with cross-attention in every other layer, and text."""
    biases = ("use_patch_bias", "use_class_token", "use_mha_bias", "use_mlp_bias")
    vision = models.BLIP2VisionEncoder(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=23,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        initializer_range=0.02,
        **dict.fromkeys(biases, True),
    )
    queries = models.BLIP2QFormer(
        num_query_tokens=5,
        num_layers=3,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=11,
        vision_dim=16,
        cross_attention_frequency=2,
        dropout=0.1,
        layer_norm_epsilon=1e-6,
    )
    return models.BLIP2Backbone(
        vision_encoder=vision, qformer=queries, language_model=language_model
    )


def gemma3n() -> Any:
    audio = Gemma3nAudioEncoder(
        hidden_size=8,
        input_feat_size=32,
        sscp_conv_channel_size=[4, 8],
        sscp_conv_kernel_size=[(3, 3), (3, 3)],
        sscp_conv_stride_size=[(2, 2), (2, 2)],
        sscp_conv_group_norm_eps=1e-5,
        num_hidden_layers=2,
        rms_norm_eps=1e-6,
        gradient_clipping=1.0,
        residual_weight=0.5,
        num_attention_heads=2,
        attention_chunk_size=4,
        num_attention_context_right=5,
        num_attention_context_left=5,
        attention_logit_cap=50.0,
        conv_kernel_size=5,
        reduction_factor=1,
    )
    return models.Gemma3nBackbone(
        vision_encoder_config=models.MobileNetV5Backbone(**MOBILE5).get_config(),
        audio_encoder_config=audio.get_config(),
        **GEMMA3N,
    )


def sam3() -> Any:
    image = {"image_shape": (112, 112, 3), "patch_size": 14}
    return models.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            **image,
            num_layers=3,
            hidden_dim=16,
            intermediate_dim=23,
            num_heads=2,
            fpn_hidden_dim=32,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(56, 56, 3),
            window_size=2,
            global_attn_indexes=[1, 2],
        ),
        text_encoder=layers.SAM3TextEncoder(
            vocabulary_size=31,
            embedding_dim=16,
            hidden_dim=16,
            num_layers=2,
            num_heads=2,
            intermediate_dim=23,
        ),
        geometry_encoder=layers.SAM3GeometryEncoder(num_layers=3, roi_size=7, **SUBLAYERS),
        detr_encoder=layers.SAM3DetrEncoder(num_layers=2, **SUBLAYERS),
        detr_decoder=layers.SAM3DetrDecoder(num_layers=2, num_queries=13, **image, **SUBLAYERS),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=32, num_heads=2),
    )


def stable_diffusion() -> Any:
    """Return the 3.5 version: the first block has another attention of the image alone."""

    def text(size: int, name: str) -> Any:
        return models.CLIPTextEncoder(
            vocabulary_size=31,
            embedding_dim=size,
            hidden_dim=size,
            num_layers=3,
            num_heads=2,
            intermediate_dim=23,
            intermediate_activation="gelu",
            intermediate_output_index=-2,
            max_sequence_length=11,
            name=name,
        )

    images = VAEBackbone([32] * 4, [2, 1, 1, 1], [32] * 4, [1, 2, 1, 1], sampler_method="mode")
    return models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=3,
        mmdit_num_heads=2,
        mmdit_position_size=8,
        mmdit_qk_norm="rms_norm",
        mmdit_dual_attention_indices=(0,),
        vae=images,
        clip_l=text(8, "clip_l"),
        clip_g=text(16, "clip_g"),
        t5=T5Encoder(
            vocabulary_size=31, num_layers=2, num_heads=2, hidden_dim=24, intermediate_dim=22
        ),
        image_shape=(64, 64, 3),
    )


MULTIMODAL_MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    # Images, queries with and without cross-attention, and text
    "BLIP2, OPT": (
        lambda: blip2(
            models.BLIP2CustomOPT(**SIZES | {"num_layers": 2}, **QUERIES, max_sequence_length=17)
        ),
        2 * 2 + (3 + 2 + 3) + 2 * 2,
    ),
    "BLIP2, T5": (
        lambda: blip2(
            models.BLIP2FlanT5(
                **SIZES | {"num_layers": 2}, **QUERIES, key_value_dim=8, layer_norm_epsilon=1e-6
            )
        ),
        2 * 2 + (3 + 2 + 3) + 2 * (2 + 3),
    ),
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
    # One block of the image encoder, and four sublayers in each of two conformer blocks. A block of
    # text has six: what AltUp predicts, what it corrects, attention, LAuReL within its norm, LAuReL
    # beside attention, and the feed-forward.
    "Gemma3n": (gemma3n, 1 + 4 * 2 + 6 * 3),
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
    # Vision, text, geometry, the encoder and the decoder; the network that scores, and the one that
    # makes masks. Boxes are projected, and added to features that are pooled by them.
    "SAM3PromptableConcept": (sam3, 2 * 3 + 2 * 2 + 3 * 3 + 3 * 2 + 4 * 2 + 1 + 1 + 1),
    "SigLIP": (lambda: pair("SigLIP"), 8 + 1),  # and the head that pools the image
    # For the prompt and for the negative prompt two text encoders and T5; then the blocks of both
    # streams, the last one without text, with one more attention; and both sides of the VAE, with
    # five blocks, two blocks in the middle and attention between them.
    "StableDiffusion3": (
        stable_diffusion,
        2 * (2 * 2 * 3 + 2 * 2) + (4 + 4 + 2 + 1) + 2 * (5 + 2 + 1),
    ),
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
