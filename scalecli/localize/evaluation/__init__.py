"""How well do heatmaps localize? Datasets, protocols and metrics of the literature, side by side.

A run reads every image once, cuts it as the protocol says, asks every method of every model for
its maps, and scores them at the image's original resolution.

Shape legend, beside the package's own: H×W the original image, K classes, P prompts (a class may
own several words), V views of an image (sliding windows, or one), N images, R resamples.
"""
