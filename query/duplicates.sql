-- Questions that several examples ask: keep them on one side of a train/test split.
-- param k int = 100: how many questions
SELECT dataset, question, count(DISTINCT (split, example_id)) AS examples,
       list(DISTINCT example_id ORDER BY example_id)[1:10] AS first_examples
FROM activations
WHERE question IS NOT NULL
GROUP BY dataset, question
HAVING examples > 1
ORDER BY examples DESC, dataset, question
LIMIT $k::INTEGER
