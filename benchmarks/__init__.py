import logging

# torch.utils.benchmark looks for a compiler of CUDA, which nothing here needs.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
