"""What a method costs at each resolution, each case in a process of its own.

The cost at a resolution is that of what makes the images measured there (`Method.at`): all levels
that diffuse jointly, and of a cascade the stages up to it; weights are untrained. Sampling goes
through all stages of a cascade (parameters and FLOPs of an image are their sums, FLOPs of a call
those of the last) and through the decoder of a codec; training is that of the last stage, by the
trainer's own step. One sample is end to end, from a caption to 8-bit pixels. Of levels that diffuse
jointly, `cost.alone` also measures the network of the coarser ones without the rest, which makes
none of the images that are measured: rows of their own, with the part "alone".

Of several batch sizes, tried from the smallest until memory runs out, the one with the best
throughput under the cap is kept. A process of its own isolates allocator, caches and crashes, and
on CPU its high-water mark is the memory figure. The processes are then asked for one repeat each,
in turn, backwards and forwards, so that a machine that slows down favours nobody.
"""
