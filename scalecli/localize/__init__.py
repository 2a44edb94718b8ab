"""Where does a vision encoder see a word? Training-free localization, for CNNs and CLIP ViTs.

After Ruth Crasto, "Zero-Shot Localization with CLIP-Style Encoders" (Towards Data Science, 2024):
CAM and Grad-CAM, patch–text similarity, attention of the anchor patch, self-self attention, GEM.

Everything here is a pure function of a model, an image batch and text embeddings; no model is
changed. Maps come on the encoder's own grid, before any up-sampling or min–max.

Shape legend: B images, P prompts, T tokens (the class token first, then gh×gw patches row by
row), H heads, D width of the tower, d = D / H width of a head, E width of the joint image–text
space, C channels of a CNN, gh×gw the grid of patches (or h×w of CNN positions).
"""
