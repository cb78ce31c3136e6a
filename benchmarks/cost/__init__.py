"""What a method costs at each resolution, each case in a process of its own.

The cost at a resolution is that of the images whose quality is measured there (`Method.at`): of all
levels that diffuse jointly, and of the stages of a cascade up to it; weights are untrained.
Sampling goes through all stages of a cascade (parameters and FLOPs of an image are their sums,
FLOPs of a call those of the last) and through the decoder of a codec; training is that of the last
stage, by the trainer's own step. A sample is timed from its caption to 8-bit pixels. With
`cost.alone`, the network of the coarser of several joint levels is also timed without the rest; it
makes none of the images of the table, so that it has rows of its own, with the part "alone".

Of several batch sizes, tried from the smallest until memory runs out, the one with the best
throughput under the cap is used. A process of its own isolates allocator, caches and crashes, and
on CPU its high-water mark is the memory figure. The processes then do one repeat each, in turn,
backwards and forwards, so that a machine that slows down favours none of them.
"""
