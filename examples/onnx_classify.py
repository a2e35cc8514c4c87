"""Export the network of a run to ONNX, and classify pictures with ONNX Runtime.

python examples/onnx_classify.py runs/20250131-120000-speedrun cat.jpg

`classify` needs no PyTorch: only ONNX Runtime, and NumPy and Pillow for `decode_picture`, which turns a picture into
the same pixels as in training: upright, 8 bits per channel, transparent pixels blended with white.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import fastcifar
from fastcifar.data.pictures import decode_picture
from fastcifar.inference.export import export_checkpoint


def classify(model: Path, pictures: list[Path]) -> list[dict[str, float]]:
    """Return the probability of each class for each picture, in order of decreasing probability."""
    session = onnxruntime.InferenceSession(model, providers=onnxruntime.get_available_providers())
    description = json.loads(session.get_modelmeta().custom_metadata_map["config"])
    height, width, _ = description["image_shape"]
    images = [decode_picture(path, (width, height)).transpose(2, 0, 1) for path in pictures]
    (logits,) = session.run(["logits"], {"images": np.stack(images)})  # uint8 [N, 3, H, W] → float32 [N, classes]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    names = description["class_names"]
    return [{names[label]: float(row[label]) for label in np.argsort(-row)} for row in probabilities]


def main() -> None:
    """Read the arguments, export the network, and print the three most likely classes of each picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of `fastcifar train`")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="picture", help="image files")
    parser.add_argument("--data-dir", type=Path, help="folder with test.beton, on which the export is checked")
    parser.add_argument("--out", type=Path, help="folder for model.onnx; RUN/export if not given")
    arguments = parser.parse_args()

    out = arguments.out or arguments.run / "export"
    for export in export_checkpoint(arguments.run, out, ["onnx"], data_dir=arguments.data_dir):
        assert export.agreement is not None  # it is checked unless that is switched off
        print(f"{export.path}: the same predictions as the checkpoint on {export.agreement.images:,} test images")
        for picture, probabilities in zip(arguments.pictures, classify(export.path, arguments.pictures), strict=True):
            likely = list(probabilities.items())[:3]
            print(f"{picture}: {', '.join(f'{name} {probability:.1%}' for name, probability in likely)}")


if __name__ == "__main__":
    try:
        main()
    except (fastcifar.FastCifarError, OSError) as error:
        sys.exit(f"error: {error}")
