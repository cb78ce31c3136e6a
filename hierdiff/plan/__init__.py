"""What a training run takes before it is started: memory a GPU, operations, days and energy.

Everything is counted on tensors without numbers (torch's fake tensors), in seconds and without the
memory of the network. The figures are estimates: memory leaves out the fragments of the allocator,
the scratch space of kernels and the buffers of the network between GPUs, and time is operations
over the peak of the GPU times an assumed, or a measured, share of it.
"""
