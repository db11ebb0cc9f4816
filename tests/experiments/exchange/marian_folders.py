"""Folders as those of OPUS-MT: MarianMTModel with random weights, and sentencepiece models trained on the spot."""

import json
from pathlib import Path

import sentencepiece

from data import grammar

SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
SIZES |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128}
OPUS = {"activation_function": "swish", "scale_embedding": True, "static_position_embeddings": True}
OPUS |= {"normalize_before": False, "normalize_embedding": False, "add_final_layer_norm": False}


def write_pieces(folder: Path, vocab_size: int = 120, kind: str = "unigram") -> dict[str, list[str]]:
    """Trains source.spm and target.spm, and returns the pieces of each."""
    lines = list(grammar.pairs("train", 600))
    found = {}
    for side, name in enumerate(("source", "target")):
        with (folder / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(pair[side] for pair in lines),
                model_writer=file,
                vocab_size=vocab_size,
                model_type=kind,
                minloglevel=3,
            )
        spm = sentencepiece.SentencePieceProcessor(str(folder / f"{name}.spm"))
        found[name] = [spm.id_to_piece(i) for i in range(3, spm.get_piece_size())]
    return found


def write_marian_folder(folder: Path, *, separate=False, codes=(), dropped=0, extra_rows=0, kind="unigram", **settings):
    """Writes the folder, and returns its model.

    Args:
        separate: vocab.json and target_vocab.json.
        codes: language codes, which no .spm has.
        dropped: number of pieces of source.spm, the longest ones, that are not in vocab.json.
        extra_rows: of the embedding beyond the vocabulary.
        settings: of config.json.
    """
    import torch
    from transformers import MarianConfig, MarianMTModel

    folder.mkdir(parents=True, exist_ok=True)
    pieces = write_pieces(folder, kind=kind)
    source = sorted(pieces["source"], key=len)[: len(pieces["source"]) - dropped]
    sides = [source, pieces["target"]] if separate else [[*source, *pieces["target"]]]
    vocabularies = [["</s>", "<unk>", *codes, *dict.fromkeys(side), "<pad>"] for side in sides]
    for name, each in zip(("vocab.json", "target_vocab.json"), vocabularies, strict=False):
        (folder / name).write_text(json.dumps({piece: i for i, piece in enumerate(each)}, ensure_ascii=False))
    rows, pad = len(vocabularies[-1]) + extra_rows, len(vocabularies[-1]) - 1
    ids = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": 0, "forced_eos_token_id": 0}
    shared = {"share_encoder_decoder_embeddings": not separate, "vocab_size": len(vocabularies[0]) + extra_rows}
    config = MarianConfig(**(SIZES | OPUS | ids | shared | {"decoder_vocab_size": rows} | settings))
    torch.manual_seed(0)
    model = MarianMTModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
        if config.decoder_start_token_id == pad:
            model.get_decoder().embed_tokens.weight[pad] = 0.0
            model.lm_head.weight[pad] += 1.0 * (not config.tie_word_embeddings)
        model.final_logits_bias.normal_()
    model.generation_config.bad_words_ids, model.generation_config.num_beams = [[pad]], 3
    model.save_pretrained(folder)
    tokens = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate, "source_lang": "en"}
    tokens |= {"target_lang": "de", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(settings | OPUS | {k: v for k, v in config.to_dict().items() if k in OPUS})
    )
    return model
