"""PyBullet worlds as Gymnasium environments, the scripted expert and closed-loop evaluation."""
