"""python -m images.src: draws every figure into images/."""

from pathlib import Path

from . import inside, pipeline

FIGURES = {
    draw.__name__: draw
    for draw in (
        pipeline.course,
        pipeline.environment,
        pipeline.download,
        pipeline.shards,
        pipeline.generation,
        pipeline.ranks,
        pipeline.engines,
        pipeline.tiny_r1,
        inside.architecture,
        inside.fp8_blocks,
        inside.mla,
        inside.routing,
        inside.triton_tiles,
    )
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (Path(__file__).parents[1] / f"{name}.svg").write_text(draw(), encoding="utf-8")
