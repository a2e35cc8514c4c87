"""The corruptions of CIFAR-10-C: 15 kinds of noise, blur, weather and digital artefacts at five severities, in batches.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, 2019,
with the parameters of ImageNet-C/create_c/make_cifar_c.py in hendrycks/robustness. This is code of our own for whole
batches on the device. Every corruption takes float images [B, C, H, W] from 0 to 1, a severity from 1 to 5 and the
images' random numbers, and returns float images of the same shape. Lengths in pixels are those of 32 × 32 images; for
other sizes they grow in proportion.
"""
