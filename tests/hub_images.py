"""Backbones of KerasHub for images at a small size, with the number of skip paths."""

from collections.abc import Callable
from typing import Any

from hub_text import backbone
from keras_hub import models

IMAGE = {"image_shape": (32, 32, 3), "num_heads": 2, "hidden_dim": 16}
PATCHES = {**IMAGE, "num_layers": 2, "intermediate_dim": 23, "patch_size": 8}
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
FINE = {
    "image_shape": (64, 64, 3),
    "anchor_image_size": (64, 64),
    "out_features": ["stage1", "stage2"],
    "feat_strides": [8, 16],
    "encoder_in_channels": [32, 48],
    "decoder_in_channels": [16, 16],
    "num_feature_levels": 2,
    "hidden_dim": 16,
    "encoder_hidden_dim": 16,
    "encode_proj_layers": [1],
    "num_attention_heads": 2,
    "encoder_ffn_dim": 23,
    "num_encoder_layers": 1,
    "hidden_expansion": 0.34,
    "depth_multiplier": 0.5,
    "num_decoder_layers": 3,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 22,
    "decoder_n_points": [3, 3],
    "eval_idx": -1,
    "lqe_hidden_dim": 8,
    "num_lqe_layers": 2,
    "num_labels": 7,
    "num_queries": 13,
    "num_denoising": 0,
    "learn_initial_query": False,
    "seed": 0,
}


IMAGE_MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    "BASNet": (
        lambda: models.BASNetBackbone(
            image_encoder=models.ResNetBackbone(**{**RESNET, "image_shape": (None, None, 3)}),
            num_classes=1,
            image_shape=(64, 64, 3),
        ),
        6 + 2 * 3 + 1,  # the encoder, two more stages and the refinement
    ),
    "CSPNet, dark": (backbone("CSPNet", CSP), 3),
    # One block of its image encoder, two sublayers of its hybrid encoder. Each layer of the decoder
    # has self-attention and feed-forward; a gate merges cross-attention. The second and the third
    # predict boxes from their output plus that of the layer before. Each layer adds what it reads
    # off the boxes to its classes, which are a projection.
    "DFine": (
        lambda: models.DFineBackbone(
            backbone=models.HGNetV2Backbone(**HGNET, out_features=FINE["out_features"]), **FINE
        ),
        1 + 2 + 2 * 3 + 2 + 3,
    ),
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
        # Layers that fuse features have two residual units. The first one uses one of them only.
        2 * 4 + 1 + 2 * 3,
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
}
