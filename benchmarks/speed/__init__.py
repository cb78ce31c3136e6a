"""The speed of a training step and of a sampler step, as ratios to a plain twin.

The twin (`plain`) has the same layout and weights and computes the same numbers, written plainly:
eager, channels first in memory, attention explicit and in float32, noise levels as images, two
passes for guidance, the text read anew in every call, an optimizer that visits one parameter after
another. Both live in one process and are timed in turn, so that a machine that slows down favours
neither: a figure is the median of paired ratios, with its quartiles. Peak memory is measured with
one of them alone in a process. `profile` says where the time goes, as shares of the rates at which
this machine multiplies matrices and convolves.
"""
