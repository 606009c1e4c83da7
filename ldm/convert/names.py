"""What diffusers and transformers call each part of our U-Net, autoencoder and CLIP text tower.

The functions take the dotted name of a module (`down.0.layers.1.res.conv1`) or of a tensor in it (`... .weight`), as
`named_modules` and `state_dict` of our networks give it, and need no network: the names alone decide.

    >>> unet_name("down.0.layers.1.attention.layers.0.cross_attention.to_k")
    'down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k'
    >>> text_names("clip.transformer.resblocks.3.attn.in_proj_weight")  # rows of q, k and v, stacked
    ('encoder.layers.3.self_attn.q_proj.weight', ...k_proj.weight', ...v_proj.weight')
"""

from ldm.convert.rules import Rules, renamed

# Ours to diffusers' UNet2DConditionModel.
UNET: Rules = (
    ("down.#.layers.#.res", "down_blocks.#.resnets.#"),
    ("down.#.layers.#.attention", "down_blocks.#.attentions.#"),
    ("down.#.downsample", "down_blocks.#.downsamplers.0"),
    ("middle.0.attention", "mid_block.attentions.0"),
    ("middle.#.res", "mid_block.resnets.#"),
    ("up.#.layers.#.res", "up_blocks.#.resnets.#"),
    ("up.#.layers.#.attention", "up_blocks.#.attentions.#"),
    ("up.#.upsample", "up_blocks.#.upsamplers.0"),
    ("time_embed.linear1", "time_embedding.linear_1"),
    ("time_embed.linear2", "time_embedding.linear_2"),
    ("pooled_embed.linear1", "class_embedding.linear_1"),
    ("pooled_embed.linear2", "class_embedding.linear_2"),
    ("norm_out", "conv_norm_out"),
    ("emb", "time_emb_proj"),
    ("skip", "conv_shortcut"),
    ("layers.#", "transformer_blocks.#"),
    ("self_attention", "attn1"),
    ("cross_attention", "attn2"),
    ("to_out", "to_out.0"),
    ("feed_forward.linear_in", "ff.net.0.proj"),
    ("feed_forward.linear_out", "ff.net.2"),
)

# Ours to diffusers' AutoencoderKL.
AUTOENCODER: Rules = (
    ("encoder.quant", "quant_conv"),
    ("decoder.post_quant", "post_quant_conv"),
    ("encoder.stages.#.blocks.#", "encoder.down_blocks.#.resnets.#"),
    ("encoder.stages.#.resample", "encoder.down_blocks.#.downsamplers.0"),
    ("decoder.stages.#.blocks.#", "decoder.up_blocks.#.resnets.#"),
    ("decoder.stages.#.resample", "decoder.up_blocks.#.upsamplers.0"),
    ("middle.block1", "mid_block.resnets.0"),
    ("middle.block2", "mid_block.resnets.1"),
    ("middle.attention.norm", "mid_block.attentions.0.group_norm"),
    ("middle.attention.q", "mid_block.attentions.0.to_q"),
    ("middle.attention.k", "mid_block.attentions.0.to_k"),
    ("middle.attention.v", "mid_block.attentions.0.to_v"),
    ("middle.attention.out", "mid_block.attentions.0.to_out.0"),
    ("norm_out", "conv_norm_out"),
    ("shortcut", "conv_shortcut"),
)

# Ours, which is open_clip's below `clip`, to transformers' CLIPTextModel without its optional prefix `text_model.`.
TEXT: Rules = (
    ("clip.token_embedding", "embeddings.token_embedding"),
    ("clip.positional_embedding", "embeddings.position_embedding.weight"),
    ("clip.transformer.resblocks.#", "encoder.layers.#"),
    ("clip.ln_final", "final_layer_norm"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
STACKED = {"attn.in_proj_weight": "weight", "attn.in_proj_bias": "bias"}


def unet_name(ours: str) -> str:
    """A module or tensor of `ldm.nets.unet.UNet` as diffusers' `UNet2DConditionModel` names it."""
    return renamed(ours, UNET)


def autoencoder_name(ours: str) -> str:
    """A module or tensor of `autoencoder.model.Autoencoder` as diffusers' `AutoencoderKL` names it."""
    return renamed(ours, AUTOENCODER)


def text_names(ours: str) -> tuple[str, ...]:
    """A module or tensor of `ldm.nets.clip.ClipEncoder` as transformers' `CLIPTextModel` names it.

    One name, without the prefix `text_model.` that transformers writes in some versions. For the stacked projections
    of an attention (`attn.in_proj_weight`, `attn.in_proj_bias`, or the attention itself, `attn`) three: the q, k and v
    whose rows stand one below the other.
    """
    theirs = renamed(ours, TEXT)
    for stacked, kind in STACKED.items():
        if theirs.endswith(stacked):
            return tuple(f"{theirs.removesuffix(stacked)}self_attn.{part}_proj.{kind}" for part in "qkv")
    if theirs.endswith(".attn"):
        return tuple(f"{theirs.removesuffix('attn')}self_attn.{part}_proj" for part in "qkv")
    return (theirs,)
