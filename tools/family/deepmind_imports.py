"""Lets DeepMind's `gemma` be imported without the packages that only its training and checkpoint
code needs.

The models need JAX and Flax alone, but importing them pulls in kauldron's training loop, and with
it TensorFlow, data loaders and plotting. Import this module first: it answers imports of those
packages with empty modules whose names are placeholder classes. Nothing that computes a model comes
from them.
"""

import importlib.abc
import importlib.machinery
import sys
import types

ABSENT = ("tensorflow", "tensorflow_datasets", "clu", "grain", "xmanager", "mediapy", "cv2", "sklearn", "skimage", "altair", "tensorboard")


class _Module(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        placeholder = type(name, (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
        setattr(self, name, placeholder)
        return placeholder


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())
