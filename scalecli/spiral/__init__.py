"""The spiral problem: inductive biases against the bitter lesson.

After Tarik Dzekman, "Why Scaling Works: Inductive Biases vs The Bitter Lesson" (Towards Data
Science, 2024). The article's code and parameters are not public: the geometry here is
calibrated to its table, not recovered.

Shape legend: S seeds, N training points, Q queries, D features, H hidden units.
"""
