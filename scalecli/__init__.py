"""scalecli: what does scale buy you, and what do good priors buy you instead?"""

__version__ = "0.1.0"
