"""The editors that MALMEN is compared with: MEND and fine-tuning.

Each module shows in one screen how its editor differs from `malmen.malmen`.
"""
