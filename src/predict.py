"""Write a run's predictions and submission: python src/predict.py run=DIR split=test."""

from flowers.commands import predict

if __name__ == "__main__":
    predict()
