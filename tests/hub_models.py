"""Every backbone of KerasHub at a small size, with the number of its skip paths.

The numbers follow from the constructors: two for each layer of an encoder or a decoder, three for
each layer of a decoder with cross-attention, one for each residual block of a convolutional network
with equal sizes on both sides, and what is said otherwise.
"""

from collections.abc import Callable
from typing import Any

import keras_hub

models, hub_layers = keras_hub.models, keras_hub.layers

SIZES = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 23,
}
GROUPED = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 22,
}
HEADS = {**GROUPED, "head_dim": 8}
SCALED = {"image_size": 16, "vision_encoder": None}
IMAGE = {"image_shape": (32, 32, 3), "num_heads": 2, "hidden_dim": 16}
TOWER = {**SIZES, "num_layers": 2, "embedding_dim": 16}
PATCHES = {**IMAGE, "num_layers": 2, "intermediate_dim": 23, "patch_size": 8}
EXPERTS = {**GROUPED, "num_experts": 3, "top_k": 2}
LINEAR = {
    **HEADS,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "partial_rotary_factor": 0.5,
}
T5GEMMA = {
    "vocabulary_size": 31,
    **{
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in {
            "hidden_dim": 16,
            "intermediate_dim": 22,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ["full_attention"] * 2,
        }.items()
    },
}
VITDET = {
    "hidden_size": 16,
    "num_layers": 4,
    "intermediate_dim": 23,
    "num_heads": 2,
    "global_attention_layer_indices": [1, 3],
    "image_shape": (128, 128, 3),
    "patch_size": 16,
    "num_output_channels": 8,
    "window_size": 2,
}
MIT = {
    "layerwise_depths": [2, 1],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [2, 1],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "image_shape": (64, 64, 3),
    "hidden_dims": [8, 16],
}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 64, 64, 64],
    "stackwise_num_blocks": [2, 1, 1, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
    "image_shape": (64, 64, 3),
}
EFFICIENT = {
    "stackwise_width_coefficients": [1.0] * 3,
    "stackwise_depth_coefficients": [1.0] * 3,
    "stackwise_kernel_sizes": [3, 3, 5],
    "stackwise_num_repeats": [2, 3, 1],
    "stackwise_input_filters": [16, 16, 24],
    "stackwise_output_filters": [16, 24, 32],
    "stackwise_expansion_ratios": [1, 4, 6],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.25, 0.25],
    "stackwise_strides": [1, 2, 2],
    "stackwise_block_types": ["fused", "unfused", "unfused"],
    "stackwise_force_input_filters": [0, 0, 0],
    "stackwise_nores_option": [False, False, False],
    "input_shape": (64, 64, 3),
    "num_features": 32,
}
MOBILE = {
    "stackwise_expansion": [[16, 24], [24, 48, 48]],
    "stackwise_num_blocks": [2, 3],
    "stackwise_num_filters": [[16, 16], [24, 24, 24]],
    "stackwise_kernel_size": [[3, 3], [5, 5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1, 1]],
    "stackwise_se_ratio": [[None, None], [0.25, 0.25, 0.25]],
    "stackwise_activation": [["relu", "relu"], ["hard_swish"] * 3],
    "stackwise_padding": [[1, 1], [2, 2, 2]],
    "output_num_filters": 32,
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "last_layer_filter": 24,
    "squeeze_and_excite": 0.5,
    "image_shape": (64, 64, 3),
    "input_num_filters": 16,
}
HGNET = {
    "depths": [1, 2],
    "embedding_size": 16,
    "hidden_sizes": [32, 48],
    "stem_channels": [3, 16, 16],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    "stackwise_stage_filters": [[16, 16, 32, 1, 2, 3], [32, 16, 48, 2, 2, 3]],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
    "image_shape": (64, 64, 3),
}
CSP = {
    "stem_filters": 8,
    "stem_kernel_size": 3,
    "stem_strides": 1,
    "stackwise_depth": [1, 2],
    "stackwise_strides": [1, 2],
    "stackwise_num_filters": [16, 32],
    "block_type": "dark_block",
    "stage_type": "dark",
    "image_shape": (32, 32, 3),
}
MOBILE5 = {
    "stackwise_block_types": [["er"], ["uir", "uir"]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[16], [24, 24]],
    "stackwise_strides": [[2], [2, 1]],
    "stackwise_act_layers": [["relu"], ["relu", "relu"]],
    "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
    "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
    "stackwise_dw_kernel_sizes": [[0], [5, 5]],
    "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3], [0, 0]],
    "stackwise_pw_kernel_sizes": [[1], [0, 0]],
    "stackwise_num_heads": [[0], [0, 0]],
    "stackwise_key_dims": [[0], [0, 0]],
    "stackwise_value_dims": [[0], [0, 0]],
    "stackwise_kv_strides": [[0], [0, 0]],
    "stackwise_use_cpe": [[False], [False, False]],
    "use_msfa": False,
    "image_shape": (64, 64, 3),
}
DINO = {**PATCHES, "position_embedding_shape": (32, 32)}


def pair(name: str, **more: Any) -> Any:
    """Return two towers of images and text."""
    vision = getattr(models, f"{name}VisionEncoder")(**PATCHES)
    text = getattr(models, f"{name}TextEncoder")(**TOWER)
    return getattr(models, f"{name}Backbone")(vision_encoder=vision, text_encoder=text, **more)


def sam() -> Any:
    return models.SAMBackbone(
        image_encoder=models.ViTDetBackbone(**VITDET),
        prompt_encoder=hub_layers.SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(8, 8),
            input_image_size=(128, 128),
            mask_in_channels=16,
        ),
        mask_decoder=hub_layers.SAMMaskDecoder(
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


def backbone(name: str, *sizes: dict[str, Any], **more: Any) -> Callable[[], Any]:
    together = {key: value for given in (*sizes, more) for key, value in given.items()}
    return lambda: getattr(models, f"{name}Backbone")(**together)


HUB_MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    # Encoders and decoders of text
    "Albert": (backbone("Albert", SIZES, embedding_dim=8), 6),
    "Bart": (backbone("Bart", SIZES), 3 * 2 + 3 * 3),
    "Bert": (backbone("Bert", SIZES), 6),
    "Bloom": (backbone("Bloom", SIZES), 6),
    "DebertaV3": (backbone("DebertaV3", SIZES), 6),
    "DistilBert": (backbone("DistilBert", SIZES), 6),
    "EdRec": (
        backbone(
            "EdRec",
            vocab_size=31,
            num_layers_enc=2,
            num_layers_dec=2,
            hidden_dim=16,
            intermediate_dim=22,
            num_heads=2,
        ),
        2 * 2 + 2 * 3,
    ),
    "Electra": (
        backbone(
            "Electra",
            vocab_size=31,
            num_layers=3,
            num_heads=2,
            hidden_dim=16,
            embedding_dim=8,
            intermediate_dim=22,
        ),
        6,
    ),
    "ESM2": (backbone("ESM2", SIZES), 6),
    "ESM2, pre": (backbone("ESM2", SIZES, use_pre_layer_norm=True), 6),
    "FNet": (
        backbone("FNet", vocabulary_size=31, num_layers=3, hidden_dim=16, intermediate_dim=22),
        6,
    ),
    "Falcon": (  # parallel: attention and feed-forward are added up
        backbone(
            "Falcon",
            vocabulary_size=31,
            num_layers=3,
            num_attention_heads=2,
            hidden_dim=16,
            intermediate_dim=22,
        ),
        6,
    ),
    "GPT2": (backbone("GPT2", SIZES), 6),
    # Attention and feed-forward are parallel, and added up first.
    "GPTNeoX": (backbone("GPTNeoX", SIZES, rotary_percentage=0.5), 3),
    "Gemma": (backbone("Gemma", HEADS), 6),
    "Gemma3": (backbone("Gemma3", HEADS, SCALED), 6),
    "Gemma4": (backbone("Gemma4", HEADS, SCALED), 6),
    "GptOss": (backbone("GptOss", EXPERTS), 6),
    "Llama": (backbone("Llama", GROUPED), 6),
    "Llama3": (backbone("Llama3", GROUPED), 6),
    "Mistral": (backbone("Mistral", GROUPED), 6),
    "Mixtral": (backbone("Mixtral", EXPERTS), 6),
    "OPT": (backbone("OPT", SIZES), 6),
    "Phi3": (backbone("Phi3", GROUPED), 6),
    "Qwen2": (backbone("Qwen2", GROUPED), 6),
    "Qwen3": (backbone("Qwen3", HEADS), 6),
    "Qwen3Moe": (backbone("Qwen3Moe", EXPERTS, head_dim=8, moe_intermediate_dim=10), 6),
    "Qwen3_5": (backbone("Qwen3_5", LINEAR), 6),
    "Qwen3_5Moe": (
        backbone(
            "Qwen3_5Moe",
            {k: v for k, v in LINEAR.items() if k != "intermediate_dim"},
            moe_intermediate_dim=10,
            shared_expert_intermediate_size=10,
            num_experts=3,
            top_k=2,
        ),
        6,
    ),
    "QwenMoe": (
        backbone("QwenMoe", EXPERTS, moe_intermediate_dim=10, shared_expert_intermediate_dim=10),
        6,
    ),
    "RWKV7": (
        backbone(
            "RWKV7",
            hidden_size=16,
            head_size=8,
            num_layers=3,
            vocabulary_size=31,
            intermediate_dim=22,
            gate_lora=4,
            mv_lora=4,
            aaa_lora=4,
            decay_lora=4,
        ),
        6,
    ),
    "Roberta": (backbone("Roberta", SIZES), 6),
    "RoformerV2": (backbone("RoformerV2", SIZES, head_size=8), 6),
    "SmolLM3": (
        backbone(
            "SmolLM3",
            vocabulary_size=31,
            hidden_dim=16,
            intermediate_dim=22,
            num_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=False,
            attention_dropout=0.0,
            rope_layer_enabled_list=[True, True, False],
            layer_types=["attention"] * 3,
            mlp_bias=False,
            layer_norm_epsilon=1e-5,
            max_position_embeddings=64,
            rope_theta=10000.0,
            partial_rotary_factor=1.0,
        ),
        6,
    ),
    "T5": (backbone("T5", SIZES), 3 * 2 + 3 * 3),
    "T5Gemma": (backbone("T5Gemma", T5GEMMA), 2 * 2 + 2 * 3),
    "T5Gemma2": (backbone("T5Gemma2", T5GEMMA), 2 * 2 + 2 * 2),  # merged attention
    "XLMRoberta": (backbone("XLMRoberta", SIZES), 6),
    "XLNet": (backbone("XLNet", SIZES), 6),
    # Speech
    "Moonshine": (
        backbone(
            "Moonshine",
            vocabulary_size=31,
            filter_dim=16,
            encoder_num_layers=2,
            decoder_num_layers=2,
            hidden_dim=16,
            intermediate_dim=22,
            encoder_num_heads=2,
            decoder_num_heads=2,
        ),
        2 * 2 + 2 * 3,
    ),
    "Whisper": (backbone("Whisper", SIZES), 3 * 2 + 3 * 3),
    # Images
    "BASNet": (
        lambda: models.BASNetBackbone(
            image_encoder=models.ResNetBackbone(**{**RESNET, "image_shape": (None, None, 3)}),
            num_classes=1,
            image_shape=(64, 64, 3),
        ),
        6 + 2 * 3 + 1,  # the encoder, two more stages and the refinement
    ),
    "CSPNet, dark": (backbone("CSPNet", CSP), 3),
    "DINOV2": (backbone("DINOV2", DINO), 4),
    "DINOV3": (backbone("DINOV3", PATCHES), 4),
    "DeepLabV3": (
        lambda: models.DeepLabV3Backbone(
            image_encoder=models.ResNetBackbone(**RESNET),
            spatial_pyramid_pooling_key="P5",
            low_level_feature_key="P2",
            upsampling_size=8,
            dilation_rates=[2, 3],
            projection_filters=8,
            image_shape=(64, 64, 3),
        ),
        6,
    ),
    "DeiT": (
        backbone("DeiT", PATCHES),
        4,
    ),
    "DenseNet": (
        backbone("DenseNet", stackwise_num_repeats=[2, 3], image_shape=(64, 64, 3), growth_rate=8),
        0,
    ),
    "DepthAnything": (
        lambda: models.DepthAnythingBackbone(
            image_encoder=models.DINOV2Backbone(
                **{**DINO, "num_layers": 4, "image_shape": (112, 112, 3), "patch_size": 14}
            ),
            reassemble_factors=[4, 2, 1, 0.5],
            neck_hidden_dims=[8, 8, 16, 16],
            fusion_hidden_dim=16,
            head_hidden_dim=8,
            head_in_index=-1,
            feature_keys=["stage1", "stage2", "stage3", "stage4"],
        ),
        2 * 4,  # the layers that fuse features call TensorFlow itself
    ),
    "EfficientNet": (backbone("EfficientNet", EFFICIENT), 2 + 2 + 0),
    "HGNetV2": (backbone("HGNetV2", HGNET), 1),
    "MiT": (backbone("MiT", MIT), 2 * 3),
    "MobileNet": (backbone("MobileNet", MOBILE), 1 + 2),
    "MobileNetV5": (backbone("MobileNetV5", MOBILE5), 1),
    "ResNet, basic": (backbone("ResNet", RESNET), 6),
    "ResNet, bottleneck": (backbone("ResNet", RESNET, block_type="bottleneck_block"), 6),
    "ResNet, V2": (
        backbone("ResNet", RESNET, block_type="bottleneck_block", use_pre_activation=True),
        6,
    ),
    "ResNet, VD": (backbone("ResNet", RESNET, block_type="basic_block_vd"), 6),
    "RetinaNet": (
        lambda: models.RetinaNetBackbone(
            image_encoder=models.ResNetBackbone(**RESNET),
            min_level=3,
            max_level=5,
            use_p5=False,
            image_shape=(64, 64, 3),
        ),
        6 + 2,  # and two merges of the feature pyramid
    ),
    "SegFormer": (
        lambda: models.SegFormerBackbone(
            image_encoder=models.MiTBackbone(**MIT), projection_filters=16
        ),
        2 * 3,
    ),
    "SwinTransformer": (
        backbone(
            "SwinTransformer",
            image_shape=(32, 32, 3),
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
            window_size=4,
        ),
        8,
    ),
    "VGG": (
        backbone(
            "VGG",
            stackwise_num_repeats=[2, 2],
            stackwise_num_filters=[8, 16],
            image_shape=(32, 32, 3),
        ),
        0,
    ),
    "ViT": (
        backbone(
            "ViT",
            image_shape=(32, 32, 3),
            patch_size=(8, 8),
            num_layers=12,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=22,
        ),
        24,
    ),
    "ViTDet": (backbone("ViTDet", VITDET), 8),
    "Xception": (
        backbone(
            "Xception",
            stackwise_conv_filters=[[8, 16], [16, 32], [32, 32]],
            stackwise_pooling=[True, True, False],
            image_shape=(64, 64, 3),
        ),
        1,  # neither the first stage nor the last one has a skip path
    ),
    # Images and text, video, diffusion
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
